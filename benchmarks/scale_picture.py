"""The curves of ``scale.py`` as one small SVG: measured seconds as dots, the plan's as a line, both axes logarithmic.

Takes points, gives text; knows nothing of how they came.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

WIDE, HIGH, ACROSS = 250, 190, 3  # of a panel, and how many stand side by side
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 26, 30  # around a panel's axes
MEASURED, PLANNED, INK, LINE = "#0072b2", "#d55e00", "#1b1f24", "#d0d5da"  # Okabe and Ito's blue and vermilion
TITLES = {
    "users": "users, without thoughts", "items": "items in the catalogue", "history": "items of a history",
    "beams": "beams", "thoughts": "thoughts of a user", "naming": "items named",
}  # fmt: skip


def picture(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """An SVG with a panel for each curve."""
    rows = ceil(len(curves) / ACROSS)
    width, height = WIDE * min(ACROSS, len(curves)), HIGH * rows + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="10" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<circle cx="14" cy="11" r="3" fill="{MEASURED}"/><text x="21" y="14">seconds measured</text>',
        f'<path d="M130 11h16" stroke="{PLANNED}" stroke-width="1.5"/><text x="151" y="14">planned at least</text>',
    ]
    for number, (name, points) in enumerate(curves.items()):
        x, y = WIDE * (number % ACROSS), 20 + HIGH * (number // ACROSS)
        parts.append(f'<g transform="translate({x} {y})">{panel(TITLES[name], points)}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(title: str, points: Sequence[Mapping[str, Any]]) -> str:
    """One curve: axes with whole powers of ten on y and the points' own values on x."""
    xs = [log10(one["x"]) for one in points]
    both = [log10(one[name]) for one in points for name in ("seconds", "predicted_s")]
    low, high = floor(min(both)), ceil(max(both))

    def across(value: float) -> float:
        return LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (WIDE - LEFT - RIGHT)

    def up(value: float) -> float:
        return HIGH - BOTTOM - (value - low) / (high - low) * (HIGH - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="{TOP - 10}" font-weight="600">{title}</text>']
    for power in range(low, high + 1):
        parts.append(f'<path d="M{LEFT} {up(power):.1f}H{WIDE - RIGHT}" stroke="{LINE}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{up(power) + 3:.1f}" text-anchor="end">{10.0**power:g} s</text>')
    for one, x in zip(points, xs, strict=True):
        parts.append(
            f'<text x="{across(x):.1f}" y="{HIGH - BOTTOM + 14}" text-anchor="middle">{short(one["x"])}</text>'
        )
    planned = " ".join(
        f"{across(x):.1f},{up(log10(one['predicted_s'])):.1f}" for one, x in zip(points, xs, strict=True)
    )
    parts.append(f'<polyline points="{planned}" fill="none" stroke="{PLANNED}" stroke-width="1.5"/>')
    for one, x in zip(points, xs, strict=True):
        parts.append(f'<circle cx="{across(x):.1f}" cy="{up(log10(one["seconds"])):.1f}" r="3" fill="{MEASURED}"/>')
    return "".join(parts)


def short(value: int) -> str:
    """A whole number on an axis: 560, 10k, 3M."""
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if value >= size and value % size == 0:
            return f"{value // size}{letter}"
    return str(value)
