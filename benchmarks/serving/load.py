"""The load generator: calls one server, in a process of its own, and prints what came of it as JSON.

    python -m benchmarks.serving.load --way vitral --address HOST:PORT --workload W2 --pictures FOLDER

A closed loop has so many callers, each with one call under way. An open loop has calls come at a fixed rate,
whatever became of those before; a call's latency counts from the moment at which it was to come.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import processes
from benchmarks.serving import pictures
from benchmarks.serving.figures import curve
from benchmarks.serving.way import Call, Picture, Staged, Streaming
from benchmarks.serving.ways import find
from benchmarks.serving.workload import WORKLOADS

CHECKED = 4
"""Answers that are held against the engine's before anything is measured."""

MOST_CALLERS = 64
"""Calls that an open loop has under way at most; later ones wait, and their clock runs."""


@dataclass
class Outcome:
    """Milliseconds of the calls that were answered, seconds it took in all, and the others by error."""

    milliseconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def closed(call: Call, turn: Callable[[], Picture], *, callers: int, seconds: float) -> Outcome:
    """So many threads, each calling again as soon as it is answered."""
    until = time.perf_counter() + seconds

    def caller(mine: Outcome) -> None:
        start = time.perf_counter()
        while start < until:
            _one(call, turn(), start, mine)
            start = time.perf_counter()

    return _together(caller, callers)


def opened(call: Call, turn: Callable[[], Picture], *, rate: float, seconds: float) -> Outcome:
    """Calls that come at a fixed rate, each in the first thread that is free."""
    arrivals, begin = itertools.count(), time.perf_counter() + 0.05
    total = round(rate * seconds)

    def caller(mine: Outcome) -> None:
        while (number := next(arrivals)) < total:
            due = begin + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            _one(call, turn(), due, mine)

    return _together(caller, MOST_CALLERS)


def streamed(
    call: Streaming, turn: Callable[[], Picture], *, callers: int, seconds: float, rate: float = 0.0
) -> Outcome:
    """One stream with as many pictures under way, or one to which pictures come at a fixed rate."""
    begin = time.perf_counter() + (0.05 if rate else 0.0)
    starts: list[float] = []

    def source() -> Iterator[Picture]:
        for number in range(round(rate * seconds)) if rate else itertools.count():
            due = begin + number / rate if rate else time.perf_counter()
            if not rate and due > begin + seconds:
                return
            time.sleep(max(0.0, due - time.perf_counter()))
            starts.append(due)
            yield turn()

    outcome, start = Outcome(), time.perf_counter()
    for number, failed in call.stream(source(), MOST_CALLERS if rate else callers):
        if failed:
            outcome.errors[failed] += 1
        else:
            outcome.milliseconds.append((time.perf_counter() - starts[number]) * 1e3)
    outcome.seconds = time.perf_counter() - start
    return outcome


def _one(call: Call, picture: Picture, start: float, mine: Outcome) -> None:
    try:
        call(picture)
    except Exception as error:  # what a server refuses is counted, whatever its client makes of it
        mine.errors[type(error).__name__] += 1
    else:
        mine.milliseconds.append((time.perf_counter() - start) * 1e3)


def _together(caller: Callable[[Outcome], None], count: int) -> Outcome:
    every, start = [Outcome() for _ in range(count)], time.perf_counter()
    threads = [threading.Thread(target=caller, args=(mine,), daemon=True) for mine in every]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = Outcome(seconds=time.perf_counter() - start)
    for mine in every:
        whole.milliseconds += mine.milliseconds
        whole.errors += mine.errors
    return whole


def measured(call: Call, run: Callable[[], Outcome], pids: Sequence[int]) -> dict[str, Any]:
    """What a run came to, with what it took of the machine."""
    if isinstance(call, Staged):
        call.stages()  # those of the warm-up
    before = processes.busy(), processes.cpu_seconds(pids), time.process_time(), processes.loopback_bytes()
    outcome = run()
    after = processes.busy(), processes.cpu_seconds(pids), time.process_time(), processes.loopback_bytes()
    all_cpu, server_cpu, client_cpu, wire = (new - old for new, old in zip(after, before, strict=True))
    return {
        "images": len(outcome.milliseconds),
        "seconds": outcome.seconds,
        "latency": list(curve(outcome.milliseconds).items()),
        "server_cpu_s": server_cpu,
        "client_cpu_s": client_cpu,
        "wire_bytes": wire,
        "others": (all_cpu - server_cpu - client_cpu) / outcome.seconds,
        "stages": call.stages() if isinstance(call, Staged) else {},
        "errors": dict(outcome.errors),
    }


def answers(call: Call, every: Sequence[Picture]) -> NDArray[Any]:
    """The first few pictures' outputs, one array."""
    return np.stack([np.array(call(picture)) for picture in every[:CHECKED]])


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--workload", required=True, choices=WORKLOADS)
    parser.add_argument("--pictures", required=True, type=Path)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0, help="images a second of an open loop")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before that")
    parser.add_argument("--pids", type=int, nargs="*", default=[], help="processes of the server")
    parser.add_argument("--answers", type=Path, help="file for the first answers")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Calls, and prints one JSON object."""
    args = _arguments(argv)
    every = pictures.load(args.pictures)
    turn = pictures.rotation(every)
    with find(args.way).caller(args.address, WORKLOADS[args.workload]) as call:
        if args.answers:
            np.save(args.answers, answers(call, every))
        if isinstance(call, Streaming):
            streamed(call, turn, callers=min(args.callers, 8), seconds=args.warm_up)
        else:
            closed(call, turn, callers=min(args.callers, 8), seconds=args.warm_up)

        def run() -> Outcome:
            if isinstance(call, Streaming):
                return streamed(call, turn, callers=args.callers, seconds=args.seconds, rate=args.rate)
            if args.rate:
                return opened(call, turn, rate=args.rate, seconds=args.seconds)
            return closed(call, turn, callers=args.callers, seconds=args.seconds)

        print(json.dumps(measured(call, run, args.pids)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
