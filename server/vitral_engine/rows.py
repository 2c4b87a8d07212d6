"""Images of one call in process: read, run in batches, copied out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitral.dynamic import Size
from vitral.errors import ImageError
from vitral.tensors import Array
from vitral.v1 import model_pb2 as pb
from vitral_engine.half import cast
from vitral_engine.intake import Intake
from vitral_engine.session import GraphSession

Image = str | os.PathLike[str] | bytes | NDArray[Any]
"""A path, the bytes of an image file, or uint8 pixels (H, W, 3); values (H, W, C) for contract raw-scale."""

_BATCH = 8
"""Rows of one run, at the native size: larger ones fall out of the CPU's cache."""


def read(intake: Intake, item: Image, graph: pb.Graph, index: int) -> Array | ImageError:
    """The row of an image for this graph, or why there is none."""
    try:
        if isinstance(item, np.ndarray):
            return intake.pixels(item, graph).array
        data = item if isinstance(item, bytes) else Path(item).read_bytes()
        return intake.encoded(data, graph).array
    except OSError as error:
        return ImageError(f"cannot read {item!r}: {error.strerror}", cause="unreadable", index=index)
    except ImageError as error:
        error.index = index
        return error


def run(
    session: GraphSession,
    rows: Sequence[Array],
    names: Sequence[str],
    dtype: np.dtype[Any],
    size: Size | None,
) -> list[dict[str, Array]]:
    """The outputs of these names for each row, all of one size, as arrays the caller owns."""
    results: list[dict[str, Array]] = []
    most = session.most_rows(_BATCH, size)
    for start in range(0, len(rows), most):
        part = rows[start : start + most]
        with session.lease(most, size) as buffers:
            for place, row in enumerate(part):
                buffers.fill(place, row)
            session.run_bound(buffers, len(part))
            results += [
                {name: _copy(buffers.outputs[name][i], dtype) for name in names} for i in range(len(part))
            ]
    return results


def _copy(source: Array, dtype: np.dtype[Any]) -> Array:
    """The buffers go back to their owner, the results to the caller."""
    made = np.empty(source.shape, dtype)
    cast(source, made)
    return made
