"""What verification.json says of a loss, read without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

FILE = "verification.json"
"""Name of the file in the version folder."""


def cosine_gaps(folder: Path) -> dict[tuple[str, str, str], float]:
    """The worst 1 - cosine over all kinds of input, by graph, output and provider; empty without the file."""
    file = folder / FILE
    found: dict[tuple[str, str, str], float] = {}
    for row in json.loads(file.read_text())["worst"] if file.exists() else []:
        for provider in ("", row["provider"]):
            key = (row["graph"], row["output"], provider)
            found[key] = max(found.get(key, 0.0), row["worst_1_minus_cosine"])
    return found
