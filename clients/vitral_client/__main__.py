"""The command `vitral`: an interrupt ends it quietly, also during the imports, most of a short run."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0, 1 on failure, 2 on wrong usage, 130 when interrupted."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # a name that cannot be printed ends no run
        return _imported()(argv)
    except KeyboardInterrupt:
        return INTERRUPTED


def _imported() -> Callable[[Sequence[str] | None], int]:
    quiet = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if quiet:
        signal.signal(signal.SIGINT, _leave)
    try:
        from vitral_client.cli import main as run  # imports grpc and numpy
    finally:
        if quiet:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return run


def _leave(_: int, __: FrameType | None) -> None:
    # At once: an exception raised inside a compiled module comes out of it as an ImportError.
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
