"""The doors of a model of contract `raw-scale`: files and arrays of numbers, of the size that is taken."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from vitral import decode as decodes
from vitral.dynamic import Size
from vitral.v1 import model_pb2 as pb
from vitral_engine import raw_file, raw_scale
from vitral_engine.intake import Intake, Row, halved
from vitral_engine.raw_scale import RawScale


class RawIntake(Intake):
    """An `Intake` whose pictures are numbers of any channels. Stateless; any thread may call it."""

    def __init__(self, spec: pb.ModelSpec, *, max_pixels: int, decode: str, size: Size | None) -> None:
        super().__init__(spec, max_pixels=max_pixels, decode=decode)
        self._scale = RawScale(spec.preprocessing, size=size)

    def encoded(self, data: bytes, graph: pb.Graph) -> Row:
        """A row from the bytes of an NPY, TIFF or PNG file.

        Raises:
            ImageError: they are none, or hold other numbers than the model takes.
        """
        start = perf_counter()
        values = raw_file.read(data, partial(self._scale.demand, what="the file's values are"))
        read = perf_counter()
        row = halved(self._scale.row(values), graph.input.dtype)
        return Row(row, (read - start) * 1e3, (perf_counter() - read) * 1e3)

    def pixels(self, array: NDArray[Any], graph: pb.Graph) -> Row:
        """A row from values (H, W, C) of the model's size and channels; (H, W) where it has one.

        Raises:
            ImageError: the array is something else, or some of it is NaN or Inf.
        """
        start = perf_counter()
        row = halved(self._scale.row(array), graph.input.dtype)
        return Row(row, 0.0, (perf_counter() - start) * 1e3)

    def keeps(self, array: NDArray[Any], graph: pb.Graph) -> bool:
        """Never: values are scaled, which takes its time."""
        return False


def intake_of(
    spec: pb.ModelSpec, *, max_pixels: int, decode: str = decodes.EXACT, size: Size | None = None
) -> Intake:
    """The doors of a model, by its contract; `size` as for `Intake`.

    Raises:
        InvalidArgumentError: there is no such mode of decoding.
        ArtifactError: its contract is unknown, or has numbers that mean nothing.
    """
    if spec.preprocessing.contract == raw_scale.CONTRACT:
        return RawIntake(spec, max_pixels=max_pixels, decode=decode, size=size)
    return Intake(spec, max_pixels=max_pixels, decode=decode, size=size)
