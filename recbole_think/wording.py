"""Figures as people read them: numbers, shares, durations, metrics and machines in words, for the report."""

import math
from collections.abc import Mapping
from typing import Any


def number(value: Any, digits: int = 4) -> str:
    """A number as people write it, a dash where there is none, and words as they are."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def share(value: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return "–" if value is None else f"{value:.{digits}%}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def short(value: int) -> str:
    """A large count in few letters."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**4, "k")):
        if value >= size:
            return f"{value / (1000 if letter == 'k' else size):.1f} {letter}"
    return f"{value:,}"


def span(group: Any) -> str:
    """The values of a group, ``low`` to ``high``."""
    return f"{group.low:,}" if group.low == group.high else f"{group.low:,} to {group.high:,}"


def spoken(metric: str) -> str:
    """A metric as papers write it, from RecBole's key."""
    name, at, k = metric.partition("@")
    return (name.upper() if name in ("ndcg", "mrr", "map") else name.capitalize()) + at + k


def hardware(facts: Mapping[str, Any]) -> str:
    """One line on the machine."""
    parts = [
        processor(facts),
        f"{facts['cores']} cores, {facts['threads']} in use",
        *(facts.get("gpus") or ["no GPU"]),
    ]
    return ", ".join(map(str, parts))


def processor(facts: Mapping[str, Any]) -> str:
    """A processor by its name and the products it has: clouds sell quite different ones under one name."""
    known = facts.get("instructions") or ("AMX bf16" if facts.get("amx_bf16") else "")  # as earlier records say it
    return f"{facts['cpu']} ({known})" if known else str(facts["cpu"])


FILTERS = {"number": number, "share": share, "duration": duration, "short": short, "spoken": spoken, "span": span}
