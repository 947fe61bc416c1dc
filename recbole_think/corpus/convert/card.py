"""What a converted data set is: its statistics, and a page that says where it is from and what was left out."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from recbole_think.corpus.convert.events import Events
from recbole_think.corpus.convert.filtering import Step
from recbole_think.corpus.convert.raw import Raw, Source, Table

LOADING = (
    "{benchmark_filename: [train, valid, test], alias_of_item_id: [item_id_list], "
    "load_col: {inter: [user_id, item_id_list, item_id]}}"
)
TESTABLE = 3  # events of a user: one to learn from, one to validate, one to test


def statistics(events: Events, items: Table, timed: bool = True) -> dict[str, Any]:
    """Figures of a data set whose events are in order of user and time, all of whose ids occur.

    Args:
        events: all of them.
        items: what is said of items.
        timed: their times are times, and not places in a history.
    """
    lengths = np.bincount(events.user)
    of_item = np.bincount(events.item)
    pairs = events.user.astype(np.int64) * len(events.items) + events.item
    same_user = np.r_[False, events.user[1:] == events.user[:-1]]
    tied = same_user & np.r_[False, events.time[1:] == events.time[:-1]]
    tied |= np.r_[tied[1:], False]
    titled = sum(1 for name in events.items if items.get(name, {}).get("title"))
    days = {"first day": _day(events.time.min()), "last day": _day(events.time.max())} if timed else {}
    return {
        "users": len(lengths),
        "items": len(of_item),
        "events": len(events),
        "density": len(events) / (len(lengths) * len(of_item)),
        "events of a user: mean": float(lengths.mean()),
        "events of a user: median": float(np.median(lengths)),
        "events of a user: most": int(lengths.max()),
        "events of an item: mean": float(of_item.mean()),
        "events of an item: median": float(np.median(of_item)),
        "users with fewer than three events (leave one out cannot test them)": int((lengths < TESTABLE).sum()),
        "share of events that repeat a user's item": float(1 - len(np.unique(pairs)) / len(pairs)),
        "share of events at the time of another one of the user": float(tied.mean()),
        "items with a title": titled,
        **days,
    }


def page(
    name: str,
    source: Source,
    raw: Raw,
    steps: Sequence[Step],
    figures: dict[str, Any],
    ties: str,
    command: str,
    split: bool = False,
) -> str:
    """The data card, in Markdown."""
    rows = "".join(f"| {step.name} | {step.events:,} | {step.users:,} | {step.items:,} |\n" for step in steps)
    table = "".join(f"| {key} | {_said(value)} |\n" for key, value in figures.items())
    files = "".join(
        f"- `{path.relative_to(raw.folder)}`, {path.stat().st_size:,} bytes, sha256 `{digest(path)}`\n"
        for path in dict.fromkeys(raw.used)
    )
    rejects = "".join(f"- {example}\n" for example in raw.rejects.examples)
    left = f"| after | events | users | items |\n|---|---|---|---|\n{rows}" if steps else "Nothing: it comes split.\n"
    order = (
        "Histories come without times; places in them stand for times."
        if not source.timed
        else "Times are the publisher's; equal ones of a user stand in the order of the publisher's file."
        if ties == "file"
        else "Times are places in a user's history, in the publisher's order of time and, where that ties, of the file."
    )
    loading = f"\nIt is split; a data set's YAML loads it with:\n\n    {LOADING}\n" if split else ""
    return (
        f"# {name}: {source.title}\n\n"
        f"From {source.home} ({source.terms}). Cite: {source.cite}.\n\n"
        f"Made by `{command}`, of:\n\n{files}\n"
        f"## What was left out\n\n{left}\n"
        f"Lines or records that could not be used: {raw.rejects.count:,}.\n{rejects}\n"
        f"## What it is\n\n{order}\n\n| | |\n|---|---|\n{table}{loading}"
    )


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _day(time: Any) -> str:
    try:
        return datetime.fromtimestamp(int(time), UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):  # a time in other units than the others
        return f"second {time}"


def _said(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
