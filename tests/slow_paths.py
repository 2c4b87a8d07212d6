"""The slow way beside each fast path, taken on purpose: with any fast path off, answers stay right.

As a command it is a server with one of them off, or none:

    python tests/slow_paths.py NAME --repo models
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

VARIABLE = "VITRAL_TEST_SLOW_PATH"
"""Environment variable that names the fast path which the tests and their servers do without."""


def _set(where: str, name: str, value: Any) -> None:
    """Sets what is there; an attribute that has gone or was renamed is no fast path any more."""
    module = importlib.import_module(where)
    getattr(module, name)
    setattr(module, name, value)


def _every_row_through_the_pool() -> None:
    _set("vitral_server.feed", "_AT_ONCE", -1)


def _runs_in_run_threads_only() -> None:
    from vitral_server.batcher import Batcher, Ticket

    submit = Batcher.submit

    def queued(self: Batcher, tickets: list[Ticket], *, here: bool = False) -> None:
        submit(self, tickets, here=False)

    Batcher.submit = queued  # type: ignore[method-assign]


def _one_session_for_lone_runs_and_crowds() -> None:
    from vitral_engine.arrangement import Arrangement

    options = Arrangement.options
    Arrangement.options = lambda self, **given: replace(options(self, **given), crowd=0)  # type: ignore[method-assign]


def _weights_as_mapped() -> None:
    from vitral_engine.arrangement import Arrangement

    options = Arrangement.options
    Arrangement.options = lambda self, **given: replace(options(self, **given), share_weights=True)  # type: ignore[method-assign]


def _normalised_before_the_graph() -> None:
    from vitral import spec as specs

    cheapest = specs.cheapest_graph
    specs.cheapest_graph = lambda spec, outputs, *, pixels: cheapest(spec, outputs, pixels=False)


def _float16_by_numpy() -> None:
    _set("vitral_engine.half", "_LEAST", 1 << 60)


def _a_heap_for_each_thread() -> None:
    _set("vitral.heap", "settle", lambda: None)
    _set("vitral_server.heap", "settle", lambda: None)
    os.environ["MALLOC_ARENA_MAX"] = "8"


def _awaited_calls_framed_in_a_thread() -> None:
    _set("vitral_client.parts", "_FEW", 0)


PATHS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {
        "pool": _every_row_through_the_pool,
        "run-threads": _runs_in_run_threads_only,
        "one-session": _one_session_for_lone_runs_and_crowds,
        "mapped-weights": _weights_as_mapped,
        "float-graph": _normalised_before_the_graph,
        "numpy-half": _float16_by_numpy,
        "heaps": _a_heap_for_each_thread,
        "framing-thread": _awaited_calls_framed_in_a_thread,
    }
)
"""What turns each fast path off in this process, by the name of the slow one."""


def command() -> list[str]:
    """How the tests start a server: with the fast path off that the environment names."""
    name = os.environ.get(VARIABLE)
    return [sys.executable, "-m", "vitral_server"] if not name else [sys.executable, __file__, name]


def main() -> int:
    """Runs the server; without a name, lists them."""
    if not sys.argv[1:]:
        print(*PATHS)
        return 0
    PATHS[sys.argv[1]]()
    from vitral_server.__main__ import main as serve

    return serve(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
