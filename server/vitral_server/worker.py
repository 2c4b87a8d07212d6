"""One worker of several: the ordinary server on its share, for as long as the one that started it lives.

Its standard input is a pipe from the supervisor: one line with the configuration, then nothing, and its end
when the supervisor is gone, however it went. On its standard output it says `serving` or `failed`.

    python -m vitral_server.worker NUMBER
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import sys
import threading
import time

from vitral.errors import VitralError
from vitral_server import heap
from vitral_server.config import ServerConfig
from vitral_server.ending import end
from vitral_server.log import announce, configure
from vitral_server.share import unpacked

log = logging.getLogger(__name__)

_STDIN = 0
_SLACK = 15.0
"""Seconds beyond drain delay and grace after which a worker without a supervisor ends in any case."""


def main() -> int:
    """Serves until SIGTERM, or until the supervisor is gone; 0 after a clean end, 1 on failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; SIGTERM comes after it
    heap.share()
    # Unbuffered: at exit Python would wait for the lock of its own reader.
    line = io.FileIO(_STDIN, closefd=False).readline()
    if not line.endswith(b"\n"):
        return 1
    config = unpacked(line)
    threading.Thread(target=_follow, args=(config,), name="supervisor", daemon=True).start()
    configure(config.log_level, worker=int(sys.argv[1]))
    try:
        from vitral_server.app import serve  # imports onnxruntime

        asyncio.run(serve(config))
    except VitralError as error:
        announce("failed", reason=str(error))
        return end(1)
    except ModuleNotFoundError as error:
        announce("failed", reason=f"{error.name} is not installed: add vitral[server]")
        return end(1)
    return end(0)


def _follow(config: ServerConfig) -> None:
    """Ends this process as SIGTERM does when the supervisor is gone."""
    while os.read(_STDIN, 1):
        pass
    log.warning("the supervisor is gone")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(config.drain_delay + config.grace + _SLACK)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
