"""Batch sizes that a device is prepared for: a smaller batch is padded up to the next one.

Kernels are chosen, and CUDA graphs captured, for one shape each; a few shapes can all be made ready before
the first caller comes.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from vitral.errors import InvalidArgumentError


@dataclass(frozen=True)
class Buckets:
    """Batch sizes that are run; without any, every batch runs at its own size.

    Raises:
        InvalidArgumentError: the sizes do not rise from at least 1.
    """

    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuses sizes that do not rise."""
        if any(low >= high for low, high in zip((0, *self.sizes), self.sizes, strict=False)):
            raise InvalidArgumentError(f"buckets are {self.sizes}; they must rise from at least 1")

    def of(self, count: int) -> int:
        """The size at which `count` rows run: a bucket, or the next power of two above the largest."""
        if not self.sizes or count < 1:
            return count
        place = bisect_left(self.sizes, count)
        return self.sizes[place] if place < len(self.sizes) else 1 << (count - 1).bit_length()


def powers(largest: int) -> Buckets:
    """1, 2, 4, 8 and so on, and `largest` itself."""
    lower = [1 << i for i in range(largest.bit_length()) if 1 << i < largest]
    return Buckets((*lower, largest))
