"""How the runs of a model share out the cores.

On a CPU one run on all cores answers a lone caller soonest; several runs at once, each on fewer cores,
answer more callers: no time is lost where the threads of a run meet. Both are kept ready, and each run is
given what suits the moment it begins in.
"""

from __future__ import annotations

from dataclasses import dataclass

from vitral_engine.placement import CPU, Placement
from vitral_engine.runtime import cpu_count
from vitral_engine.session import SessionOptions
from vitral_engine.staging import DEFAULT, Staging

_MOST_RUNS = 4
"""Runs at once where nobody says how many: more would leave too few cores to each."""


@dataclass(frozen=True)
class Arrangement:
    """Threads and runs of one model.

    Attributes:
        threads: intra-op threads of a run that is alone; 0 for every core.
        runs: runs at once.
        crowd: intra-op threads of the session for runs beside others; 0 where all have the same one.
    """

    threads: int
    runs: int
    crowd: int

    def options(self, *, first: bool, staging: Staging = DEFAULT) -> SessionOptions:
        """Of one graph.

        Args:
            first: whether it is the one most requests run: its sessions prepack the weights, which is faster
                and takes memory; those of the others map them from the file.
            staging: how batches get to a device.
        """
        return SessionOptions(
            threads=self.threads,
            share_weights=not first,
            crowd=self.crowd,
            staging=staging,
        )


def arrange(placement: Placement, *, threads: int, runs: int = 1) -> Arrangement:
    """The arrangement on this device.

    Args:
        placement: the device.
        threads: intra-op threads of every run; 0: chosen here.
        runs: runs at once; 0: chosen here.
    """
    cores = cpu_count()
    if placement.provider != CPU:
        return Arrangement(threads, max(runs, 1), 0)
    at_once = runs or (1 if threads else min(_MOST_RUNS, cores))
    # The thread that runs computes too: so many callers and the threads of their session are all cores.
    crowd = max(1, cores - at_once + 1) if at_once > 1 and not threads else 0
    return Arrangement(threads, at_once, crowd)
