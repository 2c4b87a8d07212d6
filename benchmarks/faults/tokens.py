"""Faults of tokens: the CLS token, positions, dropout, outputs that are each other's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.planting import BOTH, FLOAT, UINT8, Fault, Written

_VIT, _TWO = "vit-embedding", "patch-embedding-2d-position"
_POSITIONS, _TABLE = "position_embedding", "cat"


def _positions_off_by_one(written: Written) -> None:
    def roll(table: NDArray[np.float32]) -> None:
        table[:] = np.roll(table, 1, axis=1)

    written.change_weight(_POSITIONS, roll)


def _positions_left_out(written: Written) -> None:
    written.leave_out("Add")


def _cls_behind(written: Written) -> None:
    concat = written.node("Concat_2")
    concat.input[:] = list(reversed(concat.input))


def _cls_row_for_patches(written: Written) -> None:
    """The positions of the patches begin one row early: that of the CLS token is taken for the first."""

    def shift(table: NDArray[np.float32]) -> None:
        table[:, 1:] = table[:, :-1].copy()

    written.change_weight(_POSITIONS, shift)


def _dropout(written: Written) -> None:
    written.set_constant("rate", np.array(0.1, np.float32))
    written.set_constant("training", np.array(True))
    written.put_behind("Add", "Dropout", more=["rate", "training"])


def _halves_swapped(written: Written) -> None:
    def swap(table: NDArray[np.float32]) -> None:
        table[:] = np.roll(table, table.shape[1] // 2, axis=1)

    written.change_weight(_TABLE, swap)


def _columns_for_rows(written: Written) -> None:
    def turn(table: NDArray[np.float32]) -> None:
        side = round(len(table) ** 0.5)
        grid = table.reshape(side, side, -1).transpose(1, 0, 2)  # rows columns D -> columns rows D
        table[:] = grid.reshape(table.shape).copy()

    written.change_weight(_TABLE, turn)


def _outputs_swapped(written: Written) -> None:
    one, other = (item.name for item in written.graph.output)
    new = {one: other, other: one}
    for node in written.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]


FAULTS = (
    Fault("positions_off_by_one", _VIT, "positions off by one row", BOTH, _positions_off_by_one, shared=True),
    Fault(
        "cls_row_for_patches",
        _VIT,
        "the CLS token's position taken for the first patch",
        BOTH,
        _cls_row_for_patches,
        shared=True,
    ),
    Fault("positions_left_out", _VIT, "positions not added", (FLOAT,), _positions_left_out),
    Fault("cls_behind", _VIT, "CLS token behind the patches", BOTH, _cls_behind),
    Fault("cls_behind_uint8", _VIT, "the same in the uint8 graph only", (UINT8,), _cls_behind),
    Fault("dropout", _VIT, "dropout in training mode", BOTH, _dropout),
    Fault("halves_swapped", _TWO, "row and column halves swapped", BOTH, _halves_swapped, shared=True),
    Fault("columns_for_rows", _TWO, "columns for rows", BOTH, _columns_for_rows, shared=True),
    Fault("outputs_swapped", _TWO, "two outputs of one shape exchanged", (FLOAT,), _outputs_swapped),
)
"""Those of the CLS token and learned positions, then those of rows and columns."""
