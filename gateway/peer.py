"""Where the call that is being served came from, by its network alone."""

from __future__ import annotations

import ipaddress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

# The address as the door has it: an IP address, or gRPC's form of one.
PEER: Final[ContextVar[str]] = ContextVar("rapport_peer", default="")


def of_scope(scope: Any) -> str:
    """The address in an ASGI scope; empty where it has none."""
    client = scope.get("client")
    return client[0] if client else ""


@lru_cache(maxsize=4096)
def network(peer: str) -> str:
    """The network of an address, /24 of IPv4 and /48 of IPv6; empty where it is none."""
    text = peer
    if peer.startswith(("ipv4:", "ipv6:")):
        text = unquote(peer[5:]).rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))
