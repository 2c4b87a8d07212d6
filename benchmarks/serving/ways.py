"""Every way of serving by its name; the peers' where this checkout has them."""

from __future__ import annotations

from benchmarks.serving.vitral_way import VitralWay
from benchmarks.serving.way import Way

VITRAL, FAST = "vitral", "vitral+fast"
"""vitral as it comes, and with JPEGs decoded to a smaller scale."""

SHARED, STREAM, SHARED_STREAM = "vitral+shm", "vitral+stream", "vitral+shm+stream"
"""By shared memory, in one stream, and both."""

LIMIT, LOOP, ENGINE = "limit", "loop", "engine"
"""Those that serve nobody: what the machine can do without RPC, a plain torch loop, the engine in process."""


def ways() -> dict[str, Way]:
    """All of them."""
    fast = VitralWay(FAST, "vitral, decode = fast", args=("--decode", "fast"), drifts=True)
    shared = VitralWay(SHARED, "vitral, transport = shm", transport="shm")
    stream = VitralWay(STREAM, "vitral, embed_stream", streams=True)
    both = VitralWay(SHARED_STREAM, "vitral, embed_stream, transport = shm", transport="shm", streams=True)
    own = (VitralWay(), fast, shared, stream, both)
    found: dict[str, Way] = {way.name: way for way in own}
    try:
        from benchmarks.serving.peers import PEERS
    except ModuleNotFoundError as error:
        if error.name != "benchmarks.serving.peers":
            raise
        return found
    return found | dict(PEERS)


def find(name: str) -> Way:
    """The way of this name; any variant of vitral, `vitral+NAME`, is called as `vitral` is.

    Raises:
        SystemExit: there is none.
    """
    every = ways()
    known = name if name in every else name.partition("+")[0]
    if known not in every:
        raise SystemExit(f"unknown way {name}; known are {LOOP}, {', '.join(every)}")
    return every[known]
