"""Type, colours and colour scales of every figure."""

from __future__ import annotations

import textwrap

import matplotlib
import numpy as np
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray

INK = "#222222"
QUIET = "#666666"
RULE = "#d0d0d0"
ACCENT = "#e8590c"
"""The followed patch, everywhere."""

SHAPE = "#1864ab"
"""A shape beside a step."""

CHANNELS = ("#c92a2a", "#2b8a3e", "#1864ab")
"""Red, green and blue values."""

LOUD = "#fff3cd"
LOUD_RIM = "#e0a800"

MARKS = ("#ffffff", INK, QUIET, RULE, ACCENT, SHAPE, *CHANNELS, LOUD, LOUD_RIM)
"""Every colour of words and marks, for pictures of few colours."""

TITLE, HEADING, BODY, SMALL = 34, 23, 18, 15
"""Sizes of type in pixels."""

DIVERGING = "RdBu_r"


def font(size: float, *, bold: bool = False) -> FontProperties:
    """The one typeface, which matplotlib ships: the same figure on every machine."""
    return FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")


def times(*sizes: int) -> str:
    """A shape as people write it: `224 × 224 × 3`."""
    return " × ".join(map(str, sizes))


def plain(said: str, most: int = 48) -> str:
    """Words of unknown origin so that the typeface has them and they fit: escaped, and cut short."""
    escaped = said.encode("ascii", "backslashreplace").decode()
    return escaped if len(escaped) <= most else f"{escaped[: most - 3]}..."


def ordinal(number: int) -> str:
    """`2nd` of 2, for numbers below 11."""
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(number, 'th')}"


def wrapped(said: str, width: int, *, size: float = BODY) -> list[str]:
    """Text in lines that fit this many pixels."""
    return textwrap.wrap(said, max(10, int(width / (0.53 * size))))


def coloured(values: NDArray[np.floating], *, low: float, high: float, colours: str) -> NDArray[np.uint8]:
    """Values (...) on a colour scale of matplotlib from low to high: (..., 3)."""
    span = high - low or 1.0
    scale = matplotlib.colormaps[colours]
    shades: NDArray[np.uint8] = scale(np.clip((values - low) / span, 0.0, 1.0), bytes=True)[..., :3]
    return shades


def signed(values: NDArray[np.float32], *, of: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values around 0, blue below and red above, as far as 99 % of those `of` go: (...) -> (..., 3)."""
    limit = float(np.quantile(np.abs(of), 0.99)) or 1.0
    return coloured(values, low=-limit, high=limit, colours=DIVERGING)
