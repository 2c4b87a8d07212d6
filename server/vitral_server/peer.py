"""Who calls, by the way gRPC names a peer."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from urllib.parse import unquote


@lru_cache(maxsize=1024)
def is_local(peer: str) -> bool:
    """Whether this peer is on the same machine: `ipv4:127.0.0.1:40000`, `ipv6:%5B::1%5D:40000`, `unix:`."""
    family, _, rest = unquote(peer).partition(":")
    if family in ("unix", "unix-abstract"):
        return True
    if family not in ("ipv4", "ipv6"):
        return False
    host = rest.rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
