"""The Unix socket of a server, beside its port: for callers on the same machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from grpc import aio

from vitral.errors import InvalidArgumentError, UnavailableError

_PATH_BYTES = 107
"""What the kernel keeps of a socket's path."""


@contextmanager
def bound(server: aio.Server, path: str) -> Iterator[str]:
    """The server also listens on this path, if there is one; gives its gRPC target.

    Who may connect is for the umask and the folder to say. What a server that died left behind is replaced,
    and at the end the path is free again.

    Raises:
        InvalidArgumentError: the path is too long.
        UnavailableError: somebody listens there, it is no socket, or the folder does not take one.
    """
    if not path:
        yield ""
        return
    where = Path(path).absolute()
    if (length := len(os.fsencode(where))) > _PATH_BYTES:
        raise InvalidArgumentError(
            f"{where} has {length} bytes; a Unix socket's path has at most {_PATH_BYTES}"
        )
    _free(where)
    target = f"unix:{where}"
    try:
        server.add_insecure_port(target)
    except RuntimeError:
        raise UnavailableError(f"cannot listen on {where}: the folder is missing or not writable") from None
    own = where.stat().st_ino
    try:
        yield target
    finally:
        with suppress(OSError):
            if where.stat().st_ino == own:
                where.unlink()


def _free(path: Path) -> None:
    """Makes sure that nobody is there: gRPC would take the path from a living server without a word."""
    if not path.exists():
        return
    if not path.is_socket():
        raise UnavailableError(f"cannot listen on {path}: a file that is no socket is there")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(5)
        try:
            caller.connect(os.fspath(path))
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise UnavailableError(f"cannot listen on {path}: {error.strerror or error}") from None
    raise UnavailableError(f"cannot listen on {path}: another server does")
