"""The command `vitral-export`: Ctrl-C is told in one line from the first import on."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 1 failure, 2 usage, 130 Ctrl-C."""
    try:
        from vitral_export.cli import main as run  # imports gRPC, which takes a while

        return run(argv)
    except KeyboardInterrupt:
        print("vitral-export: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
