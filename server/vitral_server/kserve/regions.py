"""The regions of shared memory that callers on this machine have registered."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2 as pb

from vitral_server.kserve.region import Region, Slice
from vitral_server.kserve.request import Range
from vitral_server.kserve.status import (
    ForeignError,
    RegionExistsError,
    RegionMemoryError,
    RegionNotFoundError,
)
from vitral_server.peer import is_local

MOST = 256
"""Most regions at a time: each holds a file open."""


class Regions:
    """Every region by its name, one set for all callers. Lives on the event loop."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def register(self, request: Any, *, peer: str) -> None:
        """Takes a region into use.

        Raises:
            VitralError: the caller or the memory is not of this machine, or the name is taken.
        """
        _check_local(peer)
        if request.name in self._regions:
            raise RegionExistsError(f"shared memory region '{request.name}' already in manager")
        if len(self._regions) >= MOST:
            self._drop_unlinked()
        if len(self._regions) >= MOST:
            told = f"{len(self._regions)} shared memory regions are registered; the limit is {MOST}"
            raise RegionMemoryError(told)
        region = Region(request.name, request.key, request.offset, request.byte_size)
        self._regions[request.name] = region

    def unregister(self, name: str, *, peer: str) -> None:
        """Lets go of a region, or of all where no name is given; calls in work still end with it."""
        _check_local(peer)
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str, *, peer: str) -> Any:
        """One region, or all of them.

        Raises:
            RegionNotFoundError: there is none of this name.
        """
        _check_local(peer)
        if name and name not in self._regions:
            raise RegionNotFoundError(f"Unable to find system shared memory region: '{name}'")
        reply = pb.SystemSharedMemoryStatusResponse()
        for region in [self._regions[name]] if name else self._regions.values():
            item = reply.regions[region.name]
            item.name, item.key, item.offset, item.byte_size = (
                region.name,
                region.key,
                region.offset,
                region.size,
            )
        return reply

    def find(self, where: Range, *, peer: str) -> Slice:
        """The range that a caller names.

        Raises:
            VitralError: the caller may not, or there is no such range.
        """
        _check_local(peer)
        region = self._regions.get(where.region)
        if region is None:
            raise RegionNotFoundError(f"Unable to find shared memory region: '{where.region}'")
        return region.slice(where.offset, where.size)

    def _drop_unlinked(self) -> None:
        for name in [name for name, region in self._regions.items() if region.unlinked]:
            del self._regions[name]


def _check_local(peer: str) -> None:
    if not is_local(peer):
        raise ForeignError(f"shared memory is for callers on this machine, and {peer} is none")
