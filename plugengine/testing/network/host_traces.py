"""What a network driver leaves on a host, as lines that compare: links, addresses, routes, forwarding, rules."""

from __future__ import annotations

from plugengine.testing.network import view

Traces = frozenset[str]


def traces() -> Traces:
    """Return what is in the current network namespace."""
    found = view.links().values()
    lines = [f"link {link.name} ({link.kind or 'device'})" for link in found]
    lines += [f"address {address} of {link.name}" for link in found for address in link.addresses]
    lines += [f"route to {route.destination} via {route.gateway or 'a link'}" for route in view.routes()]
    lines += [f"forwarding of {name}" for name in view.forwarding()]
    return frozenset((*lines, *view.rules()))
