"""How batches get to a device: at which sizes, through how many sessions, with or without CUDA graphs."""

from __future__ import annotations

from dataclasses import dataclass

from vitral.errors import InvalidArgumentError
from vitral_engine.buckets import Buckets, powers
from vitral_engine.placement import CPU, CUDA, Placement

CHOICES = ("auto", "on", "off")
"""Whether batches are padded to buckets; `auto` does so everywhere but on the CPU."""


@dataclass(frozen=True)
class Staging:
    """What an operator decides about it.

    Attributes:
        buckets: one of `CHOICES`.
        cuda_graphs: capture one CUDA graph for each bucket and replay it.
        instances: concurrent runs. On a GPU each has a session and a stream, on a CPU all share one session.
        max_batch: the largest bucket that is made ready.

    Raises:
        InvalidArgumentError: a value is unknown or out of range, or two of them contradict each other.
    """

    buckets: str = "auto"
    cuda_graphs: bool = False
    instances: int = 1
    max_batch: int = 32

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.buckets not in CHOICES:
            raise InvalidArgumentError(f"buckets is {self.buckets!r}; known are {', '.join(CHOICES)}")
        if self.instances < 1 or self.max_batch < 1:
            said = f"instances is {self.instances} and max_batch {self.max_batch}"
            raise InvalidArgumentError(f"{said}; each must be at least 1")
        if self.cuda_graphs and self.buckets == "off":
            raise InvalidArgumentError("CUDA graphs need batch buckets: one graph is captured for each")

    def demand(self, placement: Placement) -> None:
        """Refuses what this placement cannot do.

        Raises:
            InvalidArgumentError: CUDA graphs were asked for and it is not CUDA's.
        """
        if self.cuda_graphs and placement.provider != CUDA:
            raise InvalidArgumentError(f"CUDA graphs need device cuda; this is {placement.device}")

    def applies(self, placement: Placement) -> bool:
        """Whether batches are copied to the device's own memory, and padded on the way."""
        return placement.provider != CPU or self.buckets == "on"

    @property
    def sizes(self) -> Buckets:
        """The buckets, where batches are staged."""
        return Buckets() if self.buckets == "off" else powers(self.max_batch)


DEFAULT = Staging()
"""What nobody has asked to be otherwise."""
