"""`engine.networks`: make, list, look at and remove networks."""

from __future__ import annotations

import builtins
from collections.abc import Mapping

from plugengine.model import Network
from plugengine.objects import LiveNetwork, NetworkDetails
from plugengine.site import Site


class Networks:
    """The networks of an engine: those somebody made, and the drivers' own that are in use."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def list(self) -> builtins.list[Network]:
        """Return all networks by name: those somebody made, and the drivers' own that are in use."""
        from plugengine.networks import networks

        return [row.network for row in networks.rows(self._site)]

    def create(
        self,
        name: str,
        *,
        driver: str | None = None,
        subnet: str | None = None,
        gateway: str | None = None,
        ip_range: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Network:
        """Make a network that containers can join by its name.

        Args:
            name: Not that of a driver.
            driver: None: the default.
            subnet: CIDR; None: a free private one. Only for drivers that claim ADDRESSES, as the next two.
            gateway: None: the first address of the subnet.
            ip_range: The part of the subnet addresses are leased from; None: all of it.
            options: The driver's, for the whole network.

        Raises:
            UsageError: An option the driver does not have, or an address that does not fit.
            ConflictError: The name or the subnet is taken.
            NotSupportedError: The driver does not take addresses from the engine.
            DriverError: The driver could not make its side; nothing is left.
        """
        from plugengine.networks import networks

        return networks.create(
            self._site, name, driver, subnet=subnet, gateway=gateway, ip_range=ip_range, options=options
        )

    def remove(self, name: str) -> None:
        """Remove a network.

        Raises:
            NotFoundError: There is none of that name.
            ConflictError: A running container is on it, or it is a driver's own.
        """
        from plugengine.networks import networks

        networks.remove(self._site, name)

    def get(self, name: str) -> NetworkDetails:
        """Return a network and the running containers on it.

        Raises:
            NotFoundError: There is none of that name.
        """
        from plugengine.operations.inspect import network

        return network(self._site, name)

    def live(self, name: str) -> LiveNetwork:
        """Return what the kernel of this host has of a network just now, whoever made it.

        Raises:
            NotFoundError: There is none of that name.
        """
        from plugengine.operations.inspect import live_network

        return live_network(self.get(name))
