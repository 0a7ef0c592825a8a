"""Measure in network, mount and process namespaces of the run's own, which take all that runs there along at the end.

Three processes: the caller, who shows the progress and gets the results; the init of the process namespace, whose end
is the end of everything; and its child, the worker, which measures. The network has an uplink to nowhere, since some
engines believe in a network only when there is a default route.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final, NoReturn

import msgspec

from plugengine.bench.results import Run
from plugengine.bench.rounds import Progress
from plugengine.errors import PlugengineError, StateError
from plugengine.kernel import credentials, rtnetlink
from plugengine.kernel.addresses import InterfaceSocket
from plugengine.kernel.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, mount
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.kernel.process import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, clone3
from plugengine.streams.attach_client import raise_error

UPLINK: Final = "uplink0"
_FAR_END: Final = "uplink1"
# TEST-NET-2 (RFC 5737) is routed nowhere.
_ADDRESS: Final = "198.51.100.2"
_GATEWAY: Final = "198.51.100.1"
_PREFIX_LENGTH: Final = 24
_MTU: Final = 1500
_FAR_MAC: Final = bytes.fromhex("020000000002")
_RESOLVER: Final = "/etc/resolv.conf"
_READ_BYTES: Final = 1 << 16
_END: Final = b"\n"  # never in JSON as it is written here
_NAMESPACES: Final = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC

Act = Callable[[Progress], Run]


def measure_apart(act: Act, *, progress: Progress) -> Run:
    """Call a function in namespaces of its own and return the run it returns.

    A first KeyboardInterrupt is passed on, so that what was measured until then comes back, a second one ends it.

    Args:
        act: Called in a forked process, with a progress to report to.
        progress: Told here what the function reports.

    Raises:
        PlugengineError: The function raised it, or the process died.
        KeyboardInterrupt: It was interrupted before there was anything to return.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid, _ = clone3(_NAMESPACES, pidfd=False)
    if pid == 0:
        os.close(read_end)
        _init(act, write_end)
    os.close(write_end)
    listener = _Listener(read_end, progress)
    try:
        try:
            listener.listen()
        except KeyboardInterrupt:
            os.kill(pid, signal.SIGINT)
            listener.listen()
    finally:
        os.close(read_end)
        os.kill(pid, signal.SIGKILL)  # a child of ours, not waited for
        os.waitpid(pid, 0)
    return listener.result()


class _Listener:
    """Takes what the worker reports."""

    def __init__(self, pipe: int, progress: Progress) -> None:
        self._pipe = pipe
        self._progress = progress
        self._rest = b""
        self._last: tuple[str, Any] | None = None

    def listen(self) -> None:
        """Read until the worker has ended or said its last word."""
        while self._last is None and (part := os.read(self._pipe, _READ_BYTES)):
            *lines, self._rest = (self._rest + part).split(_END)
            for line in lines:
                kind, value = msgspec.json.decode(line)
                if kind == "progress":
                    self._progress(*value)
                else:
                    self._last = (kind, value)

    def result(self) -> Run:
        """Return or raise what the worker ended with."""
        if self._last is None:
            raise StateError("bench: the process that measures ended without a word")
        kind, value = self._last
        if kind == "interrupted":
            raise KeyboardInterrupt
        if kind == "error":
            raise_error(value)
        return msgspec.convert(value, Run)


def _init(act: Act, pipe: int) -> NoReturn:
    """Be the first process of the namespace: fork the worker, pass signals on, collect orphans until it ends."""
    try:
        credentials.set_pdeathsig(signal.SIGKILL)
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        worker = os.fork()
        if worker == 0:
            _work(act, pipe)
        os.close(pipe)
        signal.signal(signal.SIGINT, lambda _number, _frame: os.kill(worker, signal.SIGINT))
        while os.wait()[0] != worker:
            pass
    finally:
        os._exit(0)


def _work(act: Act, pipe: int) -> NoReturn:
    """Measure, and write what came of it."""

    def tell(kind: str, value: object) -> None:
        text = msgspec.json.encode((kind, value)) + _END
        while text:
            text = text[os.write(pipe, text) :]

    try:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            _set_up()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            tell("run", act(lambda *words: tell("progress", words)))
        except KeyboardInterrupt:
            tell("interrupted", None)
        except PlugengineError as exc:
            tell("error", {"class": type(exc).__name__, "message": exc.message, "hint": exc.hint})
        except Exception as exc:  # noqa: BLE001 - told to the caller, with where it happened
            import traceback

            traceback.print_exc()
            tell("error", {"message": f"bench: {type(exc).__name__}: {exc}", "hint": "a bug of pe; please report it"})
    finally:
        sys.stderr.flush()
        os._exit(0)


def _set_up() -> None:
    """Finish the new namespaces."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _hide_run()
    with NetlinkSocket(NETLINK_ROUTE) as route:
        own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            route.execute(rtnetlink.new_veth(UPLINK, master=0, mtu=_MTU, peer=_FAR_END, peer_mac=_FAR_MAC, netns=own))
        finally:
            os.close(own)
    with closing(InterfaceSocket()) as interfaces:
        interfaces.up("lo")
        interfaces.set_address(UPLINK, socket.inet_aton(_ADDRESS), _PREFIX_LENGTH)
        interfaces.up(UPLINK)
        interfaces.up(_FAR_END)
        interfaces.add_default_route(socket.inet_aton(_GATEWAY))


def _hide_run() -> None:
    """Cover /run: netavark, runc and iptables keep state and locks there under fixed names."""
    resolver = os.path.realpath(_RESOLVER)
    text = b""
    if os.path.isfile(resolver):
        with open(resolver, "rb") as stream:
            text = stream.read()
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    if resolver.startswith("/run/"):
        os.makedirs(os.path.dirname(resolver), exist_ok=True)
        with open(resolver, "wb") as stream:
            stream.write(text)
