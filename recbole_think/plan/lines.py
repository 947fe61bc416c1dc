"""A line of a plan: a number, its unit, and the formula it came by; and how lines are printed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
SCALED = ("B", "B/s", "FLOP")  # units that take a prefix
WIDTH = 44


@dataclass(frozen=True)
class Line:
    """One result."""

    name: str
    value: float
    unit: str
    formula: str


Sections = Mapping[str, Sequence[Line]]


def spoken(value: float, unit: str) -> str:
    """A number as people read it: 1.1 GB, 1,234 GPU hours, 0.013 s."""
    if unit in SCALED:
        size, prefix = next(((size, prefix) for size, prefix in PREFIXES if value >= size), (1.0, ""))
        return f"{value / size:.3g} {prefix}{unit}" if value < 1e21 else f"{value:.3g} {unit}"
    if value and (value < 1e-3 or value >= 1e12):
        text = f"{value:.3g}"
    elif value < 100:
        text = f"{value:.3g}"
    else:
        text = f"{value:,.0f}"
    return f"{text} {unit}".rstrip()


def printed(sections: Sections) -> str:
    """All sections, a line each: name, number, formula."""
    told = []
    for section, lines in sections.items():
        told.append(f"\n{section}")
        told += [
            f"  {line.name + ':':<{WIDTH}} {spoken(line.value, line.unit):>18}   = {line.formula}" for line in lines
        ]
    return "\n".join(told) + "\n"
