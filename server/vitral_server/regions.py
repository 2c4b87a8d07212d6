"""The regions of shared memory in use: callers on this machine register them, and take them along."""

from __future__ import annotations

import asyncio
import logging
from secrets import token_urlsafe

from vitral.errors import RegionError
from vitral.limits import REGION_ALIGNMENT
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_server.call import Shared
from vitral_server.peer import is_local
from vitral_server.region import Region

log = logging.getLogger(__name__)

MOST = 64
"""Most regions in use."""

SWEEP = 1.0
"""Seconds between looks at whose owner is gone."""


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

    def find(self, where: tensor_pb2.SharedRange, *, peer: str) -> Shared:
        """The range that a caller names.

        Raises:
            RegionError: the caller may not, or the range does not lie in the region.
        """
        _check_local(peer)
        region = self._regions.get(where.region)
        if region is None:
            raise RegionError(f"no region {where.region[:40]!r} is registered with this server")
        end = where.offset + where.size
        if end > region.size:
            told = f"bytes {where.offset} to {end} are not in the region"
            raise RegionError(f"{told}, which has {region.size}")
        if where.offset % REGION_ALIGNMENT:
            raise RegionError(f"offset {where.offset} is no multiple of {REGION_ALIGNMENT}")
        return Shared(where.region, where.offset, region.memory[where.offset : end])

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
