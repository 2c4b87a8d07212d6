"""The command `vitral-server`: a look at the runtime first, then the server itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vitral.errors import DeviceError
from vitral_engine.runtime import require


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server; 0 after a clean end, 1 on failure, 2 on wrong usage."""
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
    return serve(argv)


if __name__ == "__main__":
    sys.exit(main())
