"""Axes and marks of a figure, without a plotting library: 480 units wide, so that a phone shows it.

Colours are names of styles; the page's style sheet gives them in light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlready.workflow.report.parts import Figure, Key, Mark

WIDTH = 480.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 12.0, 46.0
_TICK_TEXT = 5.0
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)

Point = tuple[float, float]


@dataclass
class Plot:
    """A figure in the making; numbers are in the units of its axes.

    Args:
        x, y: ends of the axes.
        height: of the figure.
        is_log: whether the x axis is logarithmic.
        left: room for the labels of the y axis.
    """

    x: Point
    y: Point
    height: float = 330.0
    is_log: bool = False
    left: float = _LEFT
    marks: list[Mark] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)

    def at(self, x: float, y: float) -> Point:
        """Return the place of a point in the figure's own units."""
        low, high, value = *self.x, x
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(x)
        share_x = (value - low) / (high - low or 1.0)
        share_y = (y - self.y[0]) / (self.y[1] - self.y[0] or 1.0)
        return (
            round(self.left + share_x * (WIDTH - self.left - _RIGHT), 1),
            round(self.height - _BOTTOM - share_y * (self.height - _BOTTOM - _TOP), 1),
        )

    def axes(self, x_title: str, y_title: str, x_ticks: Sequence[float] | None = None) -> None:
        """Draw the ticks, grid lines and titles of both axes."""
        for value in x_ticks if x_ticks is not None else ticks(*self.x):
            px, py = self.at(value, self.y[0])
            self._text(px, py + 18, f"{value:g}", "tick middle")
            self.marks.append(_line((px, py), (px, py + _TICK_TEXT), "axis"))
        for value in ticks(*self.y):
            px, py = self.at(self.x[0], value)
            self.marks.append(_line((px, py), (WIDTH - _RIGHT, py), "grid"))
            self._text(px - 7, py + 4.5, f"{value:g}", "tick end")
        start, end = self.at(self.x[0], self.y[0]), self.at(self.x[1], self.y[0])
        self.marks.append(_line(start, end, "axis"))
        self.x_title(x_title)
        middle = _TOP + (self.height - _BOTTOM - _TOP) / 2
        place = f"translate(13 {middle:.0f}) rotate(-90)"
        turned = {"class": "title middle", "transform": place}
        self.marks.append(Mark(tag="text", attributes=turned, text=y_title))

    def x_title(self, text: str) -> None:
        """Write the title of the x axis."""
        middle = self.left + (WIDTH - self.left - _RIGHT) / 2
        self._text(middle, self.height - 8, text, "title middle")

    def line(self, start: Point, end: Point, style: str, text: str = "") -> None:
        """Draw a straight line."""
        self.marks.append(_line(self.at(*start), self.at(*end), style, text))

    def path(self, points: Sequence[Point], style: str, text: str = "") -> None:
        """Draw a line through points."""
        places = " ".join(f"{px:g},{py:g}" for px, py in (self.at(*point) for point in points))
        attributes = {"points": places, "class": f"path {style}"}
        self.marks.append(Mark(tag="polyline", attributes=attributes, text=text))

    def band(self, low: Sequence[Point], high: Sequence[Point], style: str) -> None:
        """Fill the space between two lines."""
        points = [self.at(*point) for point in (*low, *reversed(high))]
        places = " ".join(f"{px:g},{py:g}" for px, py in points)
        attributes = {"points": places, "class": f"band {style}"}
        self.marks.append(Mark(tag="polygon", attributes=attributes))

    def dot(self, at: Point, style: str, text: str = "", radius: float = 4.0) -> None:
        """Draw a point."""
        px, py = self.at(*at)
        attributes: dict[str, str | float] = {"cx": px, "cy": py, "r": radius}
        attributes["class"] = f"dot {style}"
        self.marks.append(Mark(tag="circle", attributes=attributes, text=text))

    def arrow(self, start: Point, end: Point, style: str, text: str = "") -> None:
        """Draw an arrow that ends a little before its target."""
        (x1, y1), (x2, y2) = self.at(*start), self.at(*end)
        length = math.hypot(x2 - x1, y2 - y1)
        if length < 12:
            return
        ux, uy = (x2 - x1) / length, (y2 - y1) / length
        x1, y1, x2, y2 = x1 + 5 * ux, y1 + 5 * uy, x2 - 6 * ux, y2 - 6 * uy
        self.marks.append(_line((x1, y1), (x2, y2), style, text))
        corners = [(x2, y2)]
        corners += [(x2 - 8 * ux + s * 3.5 * uy, y2 - 8 * uy - s * 3.5 * ux) for s in (1, -1)]
        places = " ".join(f"{px:.1f},{py:.1f}" for px, py in corners)
        self.marks.append(
            Mark(tag="polygon", attributes={"points": places, "class": f"tip {style}"})
        )

    def label(self, at: Point, text: str, style: str = "label", dx: float = 0.0) -> None:
        """Write a text at a point."""
        px, py = self.at(*at)
        self._text(px + dx, py + 4.5, text, style)

    def key(self, style: str, text: str) -> None:
        """Add an entry to the legend."""
        self.keys.append(Key(style=style, text=text))

    def figure(self, id_: str, title: str, text: str) -> Figure:
        """Return the figure."""
        return Figure(
            id=id_,
            title=title,
            text=text,
            width=WIDTH,
            height=self.height,
            marks=tuple(self.marks),
            keys=tuple(self.keys),
        )

    def _text(self, px: float, py: float, text: str, style: str) -> None:
        attributes: dict[str, str | float] = {"x": round(px, 1), "y": round(py, 1), "class": style}
        self.marks.append(Mark(tag="text", attributes=attributes, text=text))


def _line(start: Point, end: Point, style: str, text: str = "") -> Mark:
    (x1, y1), (x2, y2) = start, end
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    attributes = {name: round(place, 1) for name, place in places.items()}
    return Mark(tag="line", attributes={**attributes, "class": f"line {style}"}, text=text)


def ticks(low: float, high: float, n_most: int = 6) -> list[float]:
    """Return round numbers between two ends, about `n_most` of them.

    Example:
        >>> ticks(0.13, 0.72)
        [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    """
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / n_most))
    step = next(power * s for s in _STEPS if span / (power * s) <= n_most)
    first = math.ceil(low / step - 1e-9)
    values = [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return values or [low]


def widened(values: Sequence[float], share: float = 0.05) -> Point:
    """Return the ends of an axis that shows all these numbers with a little room."""
    low, high = min(values), max(values)
    room = (high - low) * share or max(abs(high), 1.0) * share
    return low - room, high + room


def shortened(name: str, n_most: int) -> str:
    """Return a name that fits beside the marks of a figure, cut in its middle."""
    if len(name) <= n_most:
        return name
    half = (n_most - 1) // 2
    return f"{name[: n_most - 1 - half]}…{name[-half:]}"
