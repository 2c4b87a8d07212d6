"""What callers say of the rows they want, checked by type and range before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Literal, TypeAlias

from vitral import tensors
from vitral.errors import InvalidArgumentError
from vitral.selection import DTYPES, Rect, Selection
from vitral_client.argument import kind

View: TypeAlias = Literal["cls", "patches", "registers", "mean"]
"""A part of a token sequence."""

_MOST = 2**32 - 1
"""Largest index the contract can express."""


def choice(
    view: View | None,
    patches: Sequence[int] | None,
    rect: tuple[int, int, int, int] | None,
    dtype: str,
    *,
    l2_normalize: bool,
) -> Selection:
    """The selection in the arguments of `embed`.

    Raises:
        InvalidArgumentError: an argument of another type, out of range, or two that exclude each other.
    """
    if dtype not in DTYPES:
        raise InvalidArgumentError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    if view is not None and (not isinstance(view, str) or not view):
        raise InvalidArgumentError(f"view is a name or None, not {view!r} ({kind(view)})")
    if not isinstance(l2_normalize, bool):
        raise InvalidArgumentError(f"l2_normalize is True or False, not {l2_normalize!r}")
    return Selection(
        view=view or "",
        patches=() if patches is None else _indices(patches),
        rect=None if rect is None else _rect(rect),
        l2_normalize=l2_normalize,
        dtype=tensors.dtype_named(dtype),
    )


def _indices(value: object) -> tuple[int, ...]:
    found = _numbers(value)
    if not found:
        raise InvalidArgumentError(f"patches are one index or more, from 0 on, not {value!r} ({kind(value)})")
    return found


def _rect(value: object) -> Rect:
    found = _numbers(value)
    if found is None or len(found) != 4:
        form = "(row, column, height, width), whole numbers from 0 on"
        raise InvalidArgumentError(f"rect is {form}, not {value!r} ({kind(value)})")
    return Rect(*found)


def _numbers(value: object) -> tuple[int, ...] | None:
    """Whole numbers from 0 on; None for anything else."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        return None
    each = tuple(value)
    whole = all(isinstance(one, Integral) and not isinstance(one, bool) for one in each)
    return tuple(map(int, each)) if whole and all(0 <= one <= _MOST for one in each) else None
