"""Where in shared memory the outputs of a request go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitral import sizes
from vitral.errors import RegionError
from vitral.selection import Part
from vitral.tensors import Array, numpy_dtype
from vitral.v1 import model_pb2, tensor_pb2
from vitral_server.call import Shared
from vitral_server.target import NONE, Others, Target


class Place:
    """One request's range, an output behind the other, an image behind the other.

    Args:
        reply: the range.
        spec: of the model.
        wanted: the outputs of each image.
        images: how many there are.
        others: those of another size than the request's own.

    Raises:
        RegionError: the range is too small.
    """

    def __init__(
        self,
        reply: Shared,
        spec: model_pb2.ModelSpec,
        wanted: Sequence[Part],
        *,
        images: int,
        others: Others = NONE,
    ) -> None:
        self._reply = reply
        starts, stride = _places(spec, wanted)
        self._starts: list[list[int]] = []
        needed = 0
        for index in range(images):
            other = others.get(index)
            if isinstance(other, Target):
                inner, size = _places(other.spec, other.wanted)
            else:
                inner, size = (starts, stride) if other is None else ([], 0)
            self._starts.append([needed + start for start in inner])
            needed += size
        if needed > reply.memory.nbytes:
            told = f"the outputs of {images} images take {needed} bytes of shared memory"
            raise RegionError(f"{told}, and the range has {reply.memory.nbytes}")

    def array(self, image: int, output: int, dtype: int, shape: tuple[int, ...]) -> Array:
        """The memory of one output of one image."""
        kind = numpy_dtype(dtype)
        start = self._starts[image][output]
        end = start + int(np.prod(shape)) * kind.itemsize
        made: Array = self._reply.memory[start:end].view(kind).reshape(shape)
        return made

    def range(self, image: int, output: int, size: int) -> tensor_pb2.SharedRange:
        """The same, as the caller is told of it."""
        offset = self._reply.offset + self._starts[image][output]
        return tensor_pb2.SharedRange(region=self._reply.region, offset=offset, size=size)


def _places(spec: model_pb2.ModelSpec, wanted: Sequence[Part]) -> tuple[list[int], int]:
    """Where the outputs of one image start, and the bytes to the next one."""
    return sizes.shared_places(spec, [(part.name, part.selection) for part in wanted])
