"""Generates the Python code of the protos into a folder (default: beside the protos).

Run by `make proto` and `make proto-check` inside the pinned generator environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent / "protos"


def main(out: Path) -> int:
    """Generates messages, services and stubs of every proto under `protos/` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    include = Path(protoc.__file__).parent / "_proto"
    sources = sorted(str(path) for path in ROOT.glob("vitral/v1/*.proto"))
    flags = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    code = int(protoc.main(["protoc", f"-I{ROOT}", f"-I{include}", *flags, *sources]))
    for source in ROOT.glob("vitral/v1/*.proto"):
        if "\nservice " not in source.read_text():  # the plugins write empty modules for these
            for suffix in ("py", "pyi"):
                (out / f"vitral/v1/{source.stem}_pb2_grpc.{suffix}").unlink(missing_ok=True)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
