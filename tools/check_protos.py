"""Compares the checked-in protobuf code with what its pinned generator makes of the protos now.

Run by `make proto-check` inside the generator environment.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import generate_protos


def generated(root: Path) -> dict[str, bytes]:
    """Every generated file under a proto root, by its path relative to the root."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.glob("vitral/v1/*_pb2*"))
        if path.suffix in (".py", ".pyi")
    }


def stale(have: dict[str, bytes], want: dict[str, bytes]) -> list[str]:
    """One line for each file that is missing, left over or different."""
    lines = [f"{name} is missing" for name in want if name not in have]
    lines += [f"{name} belongs to no proto" for name in have if name not in want]
    return lines + [f"{name} is stale" for name in want if name in have and have[name] != want[name]]


def main() -> int:
    """Generates into a temporary folder; 0 when it equals what is checked in, else 1."""
    with tempfile.TemporaryDirectory() as folder:
        code = generate_protos.main(Path(folder))
        if code:
            return code
        lines = stale(generated(generate_protos.ROOT), generated(Path(folder)))
    for line in lines:
        sys.stderr.write(f"protos/{line}\n")
    if lines:
        sys.stderr.write("run `make proto` and check in what it writes\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
