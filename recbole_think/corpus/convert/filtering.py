"""What is left out of a data set, in this order: titles, ratings, times, repeats, users and items with too few events.

m events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from recbole_think.corpus.convert.events import Events
from recbole_think.corpus.convert.rejects import Rejects
from recbole_think.errors import InputError
from recbole_think.options import check

REPEATS = ("keep", "first", "last")


@dataclass(frozen=True)
class FilterOptions:
    """What is kept."""

    user_core: int = 5  # events a user has at least, and
    item_core: int = 5  # events an item has at least, both at once
    min_rating: float | None = None  # lowest rating that counts as an event
    since: str = ""  # first day, 2014-01-31
    until: str = ""  # first day that is left out
    repeats: str = "keep"  # of the same user and item: keep, first, last
    title_words: int = 0  # most words of an item's title, and it has one; 0 = whatever its title

    def __post_init__(self):
        for name in ("user_core", "item_core", "title_words"):
            check(getattr(self, name) >= 0, f"--{name} must not be negative, got {getattr(self, name)}")
        check(self.repeats in REPEATS, f"--repeats must be one of {', '.join(REPEATS)}, got {self.repeats!r}")
        for name in ("since", "until"):
            day(name, getattr(self, name))


class Step(NamedTuple):
    """What one filter left."""

    name: str
    events: int
    users: int
    items: int


def filtered(
    events: Events, options: FilterOptions, titles: Mapping[str, str], rejects: Rejects
) -> tuple[Events, list[Step]]:
    """Apply every filter that is asked for, then put each user's events in order of time.

    Equal times stay in the order of the file, and users in that of their first event.

    Args:
        events: as published.
        options: what is asked for.
        titles: of items, by raw id; read for ``title_words`` alone.
        rejects: lines that were of no use; named where nothing is left.

    Raises:
        InputError: nothing is left.
    """
    steps = [_step("as published", events)]

    def keep(name: str, kept: np.ndarray) -> None:
        nonlocal events
        events = events.where(kept)
        steps.append(_step(name, events))

    if options.title_words:
        short = [0 < len(titles.get(name, "").split()) <= options.title_words for name in events.items]
        keep(f"titles of 1 to {options.title_words} words", np.array(short, bool)[events.item])
    if options.min_rating is not None:
        keep(f"rating of {options.min_rating:g} and more", events.rating >= options.min_rating)
    if options.since:
        keep(f"since {options.since}", events.time >= day("since", options.since))
    if options.until:
        keep(f"until {options.until}", events.time < day("until", options.until))
    events = events.where(np.lexsort((events.time, events.user)))  # stable
    if options.repeats != "keep":
        keep(f"{options.repeats} of repeats", once(events, options.repeats == "last"))
    if max(options.user_core, options.item_core) > 1:
        keep(f"{options.user_core}-core of users, {options.item_core}-core of items", core(events, options))
    if not len(events):
        said = "; ".join(f"{step.name}: {step.events:,}" for step in steps)
        raise InputError(f"no event is left ({said}); ask for less{rejects.summary()}")
    return events, steps


def once(events: Events, last: bool) -> np.ndarray:
    """Choose the first or last event of every user and item: bool [m]; events are in order of time."""
    pair = events.user.astype(np.int64) * len(events.items) + events.item
    order = np.arange(len(pair))[:: -1 if last else 1]
    _, at = np.unique(pair[order], return_index=True)
    kept = np.zeros(len(pair), bool)
    kept[order[at]] = True
    return kept


def core(events: Events, options: FilterOptions) -> np.ndarray:
    """Leave out users and items with too few events until none is left that has: bool [m]."""
    kept = np.ones(len(events), bool)
    while True:
        of_user = np.bincount(events.user[kept], minlength=len(events.users))
        of_item = np.bincount(events.item[kept], minlength=len(events.items))
        enough = kept & (of_user >= options.user_core)[events.user] & (of_item >= options.item_core)[events.item]
        if enough.sum() == kept.sum():
            return kept
        kept = enough


def day(name: str, text: str) -> int:
    """Seconds since 1970 at the beginning of a day in Greenwich; 0 for none.

    Raises:
        InputError: it is no day.
    """
    if not text:
        return 0
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError as why:
        raise InputError(f"--{name}={text!r} is no day such as 2014-01-31") from why


def _step(name: str, events: Events) -> Step:
    return Step(name, len(events), len(np.unique(events.user)), len(np.unique(events.item)))
