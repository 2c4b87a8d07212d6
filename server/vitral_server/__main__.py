"""The command `vitral-server`: a look at the runtime first, then the server itself."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence

from vitral.errors import DeviceError
from vitral.heap import settle
from vitral_engine.runtime import require
from vitral_server import heap


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server; 0 after a clean end, 1 on failure, 2 on wrong usage."""
    heap.share()
    settle()
    try:
        require()
    except DeviceError as error:
        print(f"vitral-server: {error}", file=sys.stderr)
        return 1
    try:
        from vitral_server.app import main as serve  # imports onnxruntime
    except ModuleNotFoundError as error:
        print(f"vitral-server: {error.name} is not installed: add vitral[server]", file=sys.stderr)
        return 1
    code = serve(argv)
    logging.shutdown()
    if _is_held_up():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # Python would wait for the thread; nothing is left to lose
    return code


def _is_held_up() -> bool:
    """Whether a thread, stuck in a picture or in a load, would keep the process alive."""
    others = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    for thread in others:
        thread.join(timeout=0.2)
    return any(thread.is_alive() for thread in others)


if __name__ == "__main__":
    sys.exit(main())
