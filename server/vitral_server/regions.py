"""The regions of shared memory in use: callers on this machine register them, and take them along."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_urlsafe

import numpy as np

from vitral import sizes
from vitral.errors import RegionError
from vitral.limits import REGION_ALIGNMENT
from vitral.tensors import Array, numpy_dtype
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import model_pb2, tensor_pb2
from vitral_server.call import Shared, Wanted
from vitral_server.peer import is_local
from vitral_server.region import Region

log = logging.getLogger(__name__)

MOST = 64
"""Most regions in use."""

SWEEP = 1.0
"""Seconds between looks at whose owner is gone."""


@dataclass(frozen=True)
class Place:
    """Where the outputs of one request go.

    Attributes:
        region: name of the region.
        memory: bytes of the range, (size,) uint8.
        offset: of the range in the region.
        starts: of each output, from where its image begins.
        stride: bytes from one image to the next.
    """

    region: str
    memory: Array
    offset: int
    starts: Sequence[int]
    stride: int

    def array(self, image: int, output: int, dtype: int, shape: tuple[int, ...]) -> Array:
        """The memory of one output of one image."""
        kind = numpy_dtype(dtype)
        start = image * self.stride + self.starts[output]
        end = start + int(np.prod(shape)) * kind.itemsize
        made: Array = self.memory[start:end].view(kind).reshape(shape)
        return made

    def range(self, image: int, output: int, size: int) -> tensor_pb2.SharedRange:
        """The same, as the caller is told of it."""
        offset = self.offset + image * self.stride + self.starts[output]
        return tensor_pb2.SharedRange(region=self.region, offset=offset, size=size)


class Regions:
    """Every region by its name. Lives on the event loop."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def register(self, request: pb.RegisterRegionRequest, *, peer: str) -> str:
        """Takes a region into use, and gives its name.

        Raises:
            InvalidArgumentError: the request is not valid.
            RegionError: it is not a caller on this machine, or no memory that is safe to use.
        """
        _check_local(peer)
        if len(self._regions) >= MOST:
            self._drop_orphans()
        if len(self._regions) >= MOST:
            raise RegionError(f"{len(self._regions)} regions are in use; the limit is {MOST}")
        region, name = Region(request), token_urlsafe(16)
        if not self._regions:
            asyncio.get_running_loop().call_later(SWEEP, self._sweep)
        self._regions[name] = region
        log.info("region registered", extra={"owner": request.process, "bytes": region.size})
        return name

    def unregister(self, name: str) -> None:
        """Lets go of a region; calls in work for it still end."""
        if region := self._regions.pop(name, None):
            region.close()
            log.info("region dropped", extra={"bytes": region.size})

    def place(
        self, reply: Shared, spec: model_pb2.ModelSpec, wanted: Sequence[Wanted], *, images: int
    ) -> Place:
        """Where the outputs of a request go.

        Raises:
            RegionError: the caller may not, or the range does not lie in the region or is too small.
        """
        _check_local(reply.peer)
        region = self._regions.get(reply.region)
        if region is None:
            raise RegionError(f"no region {reply.region[:40]!r} is registered with this server")
        end = reply.offset + reply.size
        if end > region.size:
            told = f"bytes {reply.offset} to {end} are not in the region"
            raise RegionError(f"{told}, which has {region.size}")
        if reply.offset % REGION_ALIGNMENT:
            raise RegionError(f"offset {reply.offset} is no multiple of {REGION_ALIGNMENT}")
        starts, stride = sizes.shared_places(spec, [(want.name, want.dtype) for want in wanted])
        if images * stride > reply.size:
            told = f"the outputs of {images} images take {images * stride} bytes of shared memory"
            raise RegionError(f"{told}, and the range has {reply.size}")
        return Place(reply.region, region.memory[reply.offset : end], reply.offset, starts, stride)

    def _drop_orphans(self) -> None:
        for name in [name for name, region in self._regions.items() if region.orphaned()]:
            self.unregister(name)

    def _sweep(self) -> None:
        self._drop_orphans()
        if self._regions:
            asyncio.get_running_loop().call_later(SWEEP, self._sweep)


def _check_local(peer: str) -> None:
    if not is_local(peer):
        raise RegionError(f"shared memory is for callers on this machine, and {peer} is none")
