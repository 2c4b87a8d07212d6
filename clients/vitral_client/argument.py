"""What callers pass, checked by type and range before anything is sent."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from numbers import Integral, Real

from vitral.errors import InvalidArgumentError

MAX_SECONDS = 1e6
"""Longest time a call is given, 11 days: gRPC's clock runs over at about 9e9 s, and ends the call at once."""

MAX_SIDE = 2**32 - 1
"""Largest height or width the contract can express."""


def text(what: str, value: object) -> str:
    """A string that can be sent, as it is.

    Raises:
        InvalidArgumentError: no string, or one that UTF-8 cannot express.
    """
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{what} is a string, not {value!r} ({kind(value)})")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{what} is UTF-8 text, which {value!r} is not") from None
    return value


def optional_text(what: str, value: object) -> str:
    """The same, empty for None."""
    return "" if value is None else text(what, value)


def texts(what: str, value: object) -> tuple[str, ...]:
    """One string or several; none for None.

    Raises:
        InvalidArgumentError: neither, or one of several is no string.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (text(what, value),)
    if not isinstance(value, Iterable) or isinstance(value, (bytes, bytearray)):
        raise InvalidArgumentError(f"{what} is a string or several, not {value!r} ({kind(value)})")
    return tuple(text(f"each of {what}", one) for one in value)


def size(value: object) -> tuple[int, int] | None:
    """Height and width; None for None.

    Raises:
        InvalidArgumentError: anything but two whole numbers from 1 to `MAX_SIDE`.
    """
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, Iterable) else ()
    if len(sides) != 2 or not all(_is_side(side) for side in sides):
        raise InvalidArgumentError(
            f"size is (height, width), whole numbers from 1 to {MAX_SIDE}, not {value!r} ({kind(value)})"
        )
    return int(sides[0]), int(sides[1])


def height_width(said: str) -> tuple[int, int]:
    """Height and width of `HxW`, as an argument of a command.

    Raises:
        InvalidArgumentError: anything else.
    """
    parts = said.lower().split("x")
    sides = [int(part) for part in parts if part.isascii() and part.isdecimal() and len(part) < 11]
    if len(parts) != 2 or len(sides) != 2 or not all(map(_is_side, sides)):
        raise InvalidArgumentError(f"{said!r} is not HEIGHTxWIDTH in pixels, 224x224 say")
    return sides[0], sides[1]


def count(what: str, value: object) -> int:
    """A whole number from 1 on.

    Raises:
        InvalidArgumentError: anything else.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise InvalidArgumentError(f"{what} is a whole number from 1 on, not {value!r} ({kind(value)})")
    return int(value)


def seconds(value: object) -> float:
    """A timeout of at most `MAX_SECONDS`.

    Raises:
        InvalidArgumentError: anything but a positive finite number.
    """
    number = _number(value)
    if not 0 < number < math.inf:
        raise InvalidArgumentError(f"timeout is a positive number of seconds, not {value!r} ({kind(value)})")
    return min(number, MAX_SECONDS)


def kind(value: object) -> str:
    """The type of a value as messages name it."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_side(side: object) -> bool:
    return isinstance(side, Integral) and not isinstance(side, bool) and int(side) in range(1, MAX_SIDE + 1)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number that no float holds
        return math.nan if value <= 0 else sys.float_info.max
