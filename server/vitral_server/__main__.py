"""The command `vitral-server`: a look at the runtime first, then one server, or several behind one port."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from vitral.errors import DeviceError, InvalidArgumentError, VitralError
from vitral_engine.runtime import require
from vitral_server import heap
from vitral_server.ending import end


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server until SIGTERM or SIGINT; 0 after a clean end, 1 on failure, 2 on wrong usage."""
    heap.share()
    try:
        require()
    except DeviceError as error:
        return _failed(str(error), code=1)
    try:
        from vitral_server.config import parse
        from vitral_server.log import configure

        config = parse(argv)
        if config.workers > 1:
            from vitral_server.workers import serve
        else:
            from vitral_server.app import serve  # imports onnxruntime
    except ModuleNotFoundError as error:
        return _failed(f"{error.name} is not installed: add vitral[server]", code=1)
    except InvalidArgumentError as error:
        return _failed(str(error), code=2)
    configure(config.log_level)
    try:
        asyncio.run(serve(config))
    except VitralError as error:
        return end(_failed(str(error), code=1))
    return end(0)


def _failed(reason: str, *, code: int) -> int:
    print(f"vitral-server: {reason}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
