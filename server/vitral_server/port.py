"""The port of a server: its name in words, and holding it for several processes."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from vitral.errors import UnavailableError

_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bracketed(host: str) -> str:
    """The host as it stands in front of a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def refusal(host: str, port: int) -> UnavailableError:
    """The port cannot be had."""
    return UnavailableError(f"cannot listen on {bracketed(host)}:{port}: the port is taken or not allowed")


@contextmanager
def held(host: str, port: int) -> Iterator[int]:
    """Holds the port, 0 for a free one, for workers that bind it with SO_REUSEPORT; gives its number.

    While it is held, whoever binds it without SO_REUSEPORT is refused, another server of vitral included,
    workers or not: each of them asks for the port for itself alone first. (Another program of the same user
    that sets SO_REUSEPORT by itself is not refused; the kernel has no way to tell it from a worker.)

    Raises:
        UnavailableError: the port is taken or not allowed, or this system does not spread connections.
    """
    if sys.platform != "linux":
        raise UnavailableError("workers above 1 take Linux: others do not spread connections over processes")
    with ExitStack() as stack:
        taken: int | None = None
        for family, address in _addresses(host, port):
            try:
                one = stack.enter_context(_held(family, address, port if taken is None else taken))
            except OSError as error:
                if error.errno in _ABSENT:  # `localhost` may mean ::1 where there is no IPv6
                    continue
                raise refusal(host, port) from error
            taken = one.getsockname()[1]
        if taken is None:
            raise refusal(host, port)
        yield taken


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    """Family and address of every meaning of the host that this machine has."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise refusal(host, port) from None
    return list(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found))


def _held(family: int, address: str, port: int) -> socket.socket:
    """A socket that is bound and never listens: it takes no connections.

    Only listening alone proves that nobody else has the port, so that a first socket does. The second one
    joins it and stays. SO_REUSEADDR is for connections of an earlier server that have not timed out; left
    on, it would let others bind beside a socket that does not listen.
    """
    alone, stays = socket.socket(family), socket.socket(family)
    try:
        with alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((address, port))
            alone.listen(1)
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            stays.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stays.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            stays.bind((address, alone.getsockname()[1]))
            stays.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        stays.close()
        raise
    return stays
