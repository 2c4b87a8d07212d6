"""Every way of serving by its name; the peers' where this checkout has them."""

from __future__ import annotations

from benchmarks.serving.vitral_way import VitralWay
from benchmarks.serving.way import Way

VITRAL = "vitral"
LIMIT, LOOP = "limit", "loop"
"""Two that serve nobody: what the machine can do without RPC, and a plain torch loop."""


def ways() -> dict[str, Way]:
    """All of them."""
    found: dict[str, Way] = {VITRAL: VitralWay()}
    try:
        from benchmarks.serving.peers import PEERS
    except ModuleNotFoundError as error:
        if error.name != "benchmarks.serving.peers":
            raise
        return found
    return found | dict(PEERS)


def find(name: str) -> Way:
    """The way of this name; a variant, `vitral+NAME`, is called as `vitral` is.

    Raises:
        SystemExit: there is none.
    """
    every = ways()
    if (base := name.partition("+")[0]) not in every:
        raise SystemExit(f"unknown way {name}; known are {LIMIT}, {LOOP}, {', '.join(every)}")
    return every[base]
