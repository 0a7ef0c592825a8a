"""A container as far as a network driver is concerned: an id and a network namespace."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

from plugengine.model import Attachment, Network, NetworkRequest, Port, short_id
from plugengine.testing.cases import expect, fail
from plugengine.testing.network import view
from plugengine.testing.network.net_namespace import Place

if TYPE_CHECKING:
    from plugengine.testing.network.subject import Subject


class Container(Place):
    """One container; made by `Subject.container`."""

    def __init__(self, subject: Subject, network: Network, container_id: str, address: str | None) -> None:
        super().__init__(os.dup(subject.here.fd) if subject.shares_host else None)
        self.subject: Subject = subject
        self.network: Network = network
        self.id: str = container_id
        self.cidr: str | None = address
        self.attachment: Attachment | None = None
        self._ports: tuple[Port, ...] = ()

    def request(self, *ports: Port, **changes: Any) -> NetworkRequest:
        """Return the request to attach it."""
        values: dict[str, Any] = {
            "container_id": self.id,
            "network": self.network,
            "network_record": self.subject.records.get(self.network.name, {}),
            "netns": self.fd,
            "address": self.cidr,
            "ports": ports,
        }
        return NetworkRequest(**{**values, **changes})

    def attach(self, *ports: Port, **changes: Any) -> Self:
        """Make sure of its network and attach it, as the engine does before every start."""
        self.subject.make(self.network)
        self._ports = ports
        self.attachment = self.subject.driver.attach(self.request(*ports, **changes))
        return self

    @property
    def lent_nothing(self) -> NetworkRequest:
        """Return the request as detach gets it: the namespace may be gone, and is not lent."""
        return self.request(*self._ports, netns=-1)

    def detach(self) -> None:
        """Detach it."""
        self.subject.driver.detach(self.lent_nothing, self.attachment)
        self.attachment = None

    @property
    def attached(self) -> Attachment:
        """Return the attachment.

        Raises:
            Failure: There is none.
        """
        if self.attachment is None:
            fail(f"container {short_id(self.id)} is not attached")
        return self.attachment

    def expect_working(self, when: str) -> None:
        """Fail unless frames pass through every interface of the attachment; `when` ends the sentence."""
        with self.inside():
            links = view.links()
        for interface in self.attached.interfaces:
            usable = interface.name in links and links[interface.name].running
            expect(usable, f"{interface.name} of container {self.id} does not work {when}")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the addresses of the attachment, without the lengths of their prefixes, IPv4 first."""
        found = [cidr.partition("/")[0] for interface in self.attached.interfaces for cidr in interface.addresses]
        return tuple(sorted(found, key=lambda address: ":" in address))

    @property
    def address(self) -> str:
        """Return its first address.

        Raises:
            Failure: The attachment names none.
        """
        expect(self.addresses, f"the attachment of container {short_id(self.id)} names no address")
        return self.addresses[0]
