"""A drawing board counted in pixels from the upper left, on a matplotlib Figure of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray

from vitral_view import style

_DPI = 72  # a point is then a pixel


@dataclass(frozen=True)
class Box:
    """A rectangle of the board, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """Its lower edge."""
        return self.top + self.height

    def fit(self, columns: int, rows: int) -> Box:
        """The largest box of this shape, upper left; a whole multiple where that fills three quarters."""
        times = min(self.width / columns, self.height / rows)
        if times >= 1 and int(times) >= 0.75 * times:
            times = int(times)
        return Box(self.left, self.top, max(1, round(columns * times)), max(1, round(rows * times)))


class Canvas:
    """The board. White; what is drawn later lies above."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        self._agg = FigureCanvasAgg(self._figure)
        self._layer = 0

    def pixels(self) -> NDArray[np.uint8]:
        """What has been drawn, uint8 (height, width, 3)."""
        self._agg.draw()  # type: ignore[no-untyped-call]
        return np.asarray(self._agg.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]

    def picture(self, box: Box, rgb: NDArray[np.uint8]) -> None:
        """An image that has exactly the box's size: its pixels become the board's."""
        assert rgb.shape == (box.height, box.width, 3), (rgb.shape, box)
        self._figure.figimage(rgb, box.left, self.height - box.bottom, origin="upper", zorder=self._next())

    def text(
        self,
        left: float,
        top: float,
        said: str,
        *,
        size: float = style.BODY,
        colour: str = style.INK,
        bold: bool = False,
        across: str = "left",
        down: str = "top",
    ) -> None:
        """A line of text with its anchor at this point; `across` and `down` are matplotlib's alignments."""
        self._figure.text(
            left,
            self.height - top,
            said,
            color=colour,
            fontproperties=style.font(size, bold=bold),
            ha=across,
            va=down,
            zorder=self._next(),
            transform=IdentityTransform(),
            parse_math=False,
        )

    def badge(self, right: float, top: float, said: str, *, loud: bool) -> None:
        """A short note in a frame that ends at `right`; loud where it is a warning."""
        frame = {
            "boxstyle": "square,pad=0.5",
            "facecolor": style.LOUD if loud else "white",
            "edgecolor": style.LOUD_RIM if loud else style.RULE,
            "linewidth": 1.5,
        }
        self._figure.text(
            right,
            self.height - top,
            style.plain(said),
            color=style.INK,
            fontproperties=style.font(style.BODY, bold=loud),
            ha="right",
            va="top",
            zorder=self._next(),
            bbox=frame,
            transform=IdentityTransform(),
            parse_math=False,
        )

    def lines(self, ends: Sequence[tuple[float, float, float, float]], *, colour: str, width: float) -> None:
        """Straight lines (left, top, left, top)."""
        segments = [((x, self.height - y), (u, self.height - v)) for x, y, u, v in ends]
        self._figure.add_artist(
            LineCollection(
                segments, colors=colour, linewidths=width, zorder=self._next(), transform=IdentityTransform()
            )
        )

    def rectangle(self, box: Box, *, colour: str, width: float = 0.0, fill: str | None = None) -> None:
        """A rectangle around a box."""
        self._figure.add_artist(
            Rectangle(
                (box.left, self.height - box.bottom),
                box.width,
                box.height,
                edgecolor=colour if width else "none",
                facecolor=fill or "none",
                linewidth=width,
                joinstyle="miter",
                zorder=self._next(),
                transform=IdentityTransform(),
            )
        )

    def arrow(self, left: float, top: float, right: float, *, colour: str = style.QUIET) -> None:
        """An arrow to the right."""
        y = self.height - top
        self._figure.add_artist(
            FancyArrowPatch(
                (left, y),
                (right, y),
                arrowstyle="-|>",
                mutation_scale=18,
                linewidth=2,
                color=colour,
                shrinkA=0,
                shrinkB=0,
                zorder=self._next(),
                transform=IdentityTransform(),
            )
        )

    def axes(self, box: Box) -> Axes:
        """Axes in a box, for curves."""
        bottom = (self.height - box.bottom) / self.height
        return self._figure.add_axes(
            (box.left / self.width, bottom, box.width / self.width, box.height / self.height),
            zorder=self._next(),
        )

    def _next(self) -> int:
        """A layer above all others: of itself matplotlib orders by kind, lines above rectangles."""
        self._layer += 1
        return self._layer
