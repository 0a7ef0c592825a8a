"""A directory of small plugins, a network configuration, and containers as far as the driver is concerned."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import plugengine_net_cni as cni

from plugengine.model import Attachment, Network, NetworkRequest
from tests.drivers.net_bridge.world import HOST, Namespace
from tests.drivers.options import values

PLUGIN = Path(__file__).with_name("plugin.py")


class World:
    """Plugins that write down how they are called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.guests: list[Guest] = []

    def install(self, *names: str) -> None:
        """Put the small plugin there under these names."""
        text = f"#!{sys.executable} -IS\n{PLUGIN.read_text()}"
        for name in names:
            file = self.bin / name
            file.write_text(text)
            file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def conflist(self, *plugins: dict[str, Any], version: str = "1.0.0", name: str = "net", **more: Any) -> Path:
        """Write a configuration; its plugins are installed."""
        self.install(*(str(plugin["type"]) for plugin in plugins))
        file = self.directory / f"{name}.conflist"
        file.write_text(json.dumps({"cniVersion": version, "name": name, "plugins": plugins, **more}))
        return file

    def network(self, conf: Path, **options: str) -> Network:
        return Network(
            name="lan",
            driver="cni",
            options=values(cni.pe_network_info(), {"conf": str(conf), "path": str(self.bin), **options}),
            owner=HOST.root,
        )

    def guest(self, network: Network) -> Guest:
        made = Guest(network, len(self.guests) + 1)
        self.guests.append(made)
        return made

    def calls(self, *commands: str) -> list[dict[str, Any]]:
        """Return the calls, or those of some commands, in order; VERSION only when asked for."""
        log = self.bin / "log"
        found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        wanted = commands or ("ADD", "DEL", "CHECK", "GC", "STATUS")
        return [call for call in found if call["command"] in wanted]

    def order(self, *commands: str) -> list[str]:
        """Return "COMMAND plugin" for the calls, and forget them."""
        found = [f"{call['command']} {call['plugin']}" for call in self.calls(*commands)]
        (self.bin / "log").unlink(missing_ok=True)
        return found

    def ledger(self) -> list[str]:
        """Return the names of the files kept."""
        directory = self.directory / "ledger"
        return sorted(name for name in os.listdir(directory) if name != "lock") if directory.exists() else []

    def close(self) -> None:
        for guest in self.guests:
            guest.close()


class Guest(Namespace):
    """A container."""

    def __init__(self, network: Network, number: int) -> None:
        super().__init__()
        self.network = network
        self.id = f"{number:064x}"
        self.attachment: Attachment | None = None

    def request(self, **changes: Any) -> NetworkRequest:
        values = {"container_id": self.id, "network": self.network, "network_record": {}, "netns": self.fd}
        return NetworkRequest(**{**values, **changes})

    def attach(self, **changes: Any) -> Attachment:
        record = cni.pe_network_create(self.network)
        self.attachment = cni.pe_network_attach(self.request(network_record=record, **changes))
        return self.attachment

    def detach(self) -> None:
        cni.pe_network_detach(self.request(netns=-1), self.attachment)
