"""A line chart as SVG, written by hand: a logarithmic x axis, y from 0, one line for each series."""

import dataclasses
import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 48, 56
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8d6a9f")
STEPS = (1, 2, 2.5, 5, 10)
LINES = 5  # horizontal lines, about


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """A name, and its points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


def chart(title: str, x_title: str, y_title: str, series: Sequence[Series]) -> str:
    """The chart as the text of an SVG file. There must be a point, and x must be more than 0."""
    drawing = _Drawing(series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 20, title, size=15),
        *drawing.grid(),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_title, anchor="middle"),
        _text(LEFT, TOP - 10, y_title),
        *(line for number, one in enumerate(series) for line in drawing.line(number, one)),
        "</svg>\n",
    ]
    return "\n".join(parts)


class _Drawing:
    """The two scales, and what is drawn with them."""

    def __init__(self, series: Sequence[Series]) -> None:
        points = [point for one in series for point in one.points]
        self._xs = sorted({x for x, _ in points})
        self._step = _round_step(max(y for _, y in points) / LINES)
        self._top = self._step * math.ceil(max(y for _, y in points) / self._step)

    def x(self, value: float) -> float:
        """The horizontal place of a value, logarithmic."""
        low, high = math.log(self._xs[0]), math.log(self._xs[-1])
        part = (math.log(value) - low) / (high - low) if high > low else 0.5
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """The vertical place of a value."""
        return HEIGHT - BOTTOM - value / self._top * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> list[str]:
        """Horizontal lines with their values, and the values of x that were measured."""
        parts = []
        for number in range(round(self._top / self._step) + 1):
            value = number * self._step
            y = self.y(value)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
            parts.append(_text(LEFT - 8, y + 4, f"{value:,.0f}", anchor="end"))
        return parts + [_text(self.x(x), HEIGHT - BOTTOM + 18, f"{x:,.0f}", anchor="middle") for x in self._xs]

    def line(self, number: int, series: Series) -> list[str]:
        """The line of one series, its points, and its place in the legend."""
        colour = COLOURS[number % len(COLOURS)]
        places = [(self.x(x), self.y(y)) for x, y in sorted(series.points)]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        legend = WIDTH - RIGHT - 150 * (number + 1)
        return [
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>',
            *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places),
            f'<rect x="{legend}" y="{TOP - 20}" width="12" height="12" fill="{colour}"/>',
            _text(legend + 18, TOP - 10, series.name),
        ]


def _round_step(rough: float) -> float:
    """The next number of the form 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(step for step in STEPS if step * power >= rough)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{html.escape(text)}</text>'
