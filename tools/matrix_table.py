"""The results of `make test-matrix` as a Markdown table: their file is its one argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = (("float32", "20"), ("float32", "23"), ("float16", "20"), ("float16-storage", "20"), ("int8", "20"))


def table(cells: list[dict[str, Any]]) -> str:
    """One line for each family and size; figures are relative L2, in brackets the share of their budget."""
    by_place = {(one["family"], one["size"], one["precision"], one["opset"]): one for one in cells}
    heads = [f"{precision}, opset {opset}" for precision, opset in COLUMNS]
    lines = [f"| family | size | {' | '.join(heads)} |", f"| --- | --- |{' --- |' * len(heads)}"]
    for family in dict.fromkeys(one["family"] for one in cells):
        for size in ("static", "dynamic"):
            row = [_said(by_place.get((family, size, *column))) for column in COLUMNS]
            lines.append(f"| {family} | {size} | {' | '.join(row)} |")
    return "\n".join(lines)


def _said(cell: dict[str, Any] | None) -> str:
    return "refused" if cell is None else f"{cell['rel_l2']:.1e} ({cell['rel_l2'] / cell['budget']:.0%})"


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text())))
