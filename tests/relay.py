"""A TCP relay in front of a server, which cuts one of its connections in the middle of a reply."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass
class Relay:
    """Where it listens, and how often it was connected to and cut."""

    address: str
    connections: int = 0
    cuts: int = 0


@contextmanager
def cutting(server: str, *, after: int, which: int = 1) -> Iterator[Relay]:
    """Relays to `server`; connection number `which` is reset when `after` bytes have come back through it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(f"127.0.0.1:{listener.getsockname()[1]}")
        sockets: list[socket.socket] = []
        bounds = {which: after}
        threading.Thread(target=_accept, args=(listener, server, relay, bounds, sockets), daemon=True).start()
        try:
            yield relay
        finally:
            for one in sockets:
                _end(one)


def _accept(
    listener: socket.socket,
    server: str,
    relay: Relay,
    bounds: Mapping[int, int],
    sockets: list[socket.socket],
) -> None:
    host, _, port = server.rpartition(":")
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        far = socket.create_connection((host, int(port)))
        sockets += [near, far]
        relay.connections += 1
        left = bounds.get(relay.connections)
        threading.Thread(target=_pass, args=(near, far, relay, None), daemon=True).start()
        threading.Thread(target=_pass, args=(far, near, relay, left), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket, relay: Relay, left: int | None) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            if left is not None and (left := left - len(data)) < 0:
                relay.cuts += 1
                break
            sink.sendall(data)
    _end(source)
    _end(sink)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
