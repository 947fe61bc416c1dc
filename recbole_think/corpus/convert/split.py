"""A data set in three parts: each row an item and what its user had met before (RecBole's ``benchmark_filename``).

Time cuts all users at two moments, so that nobody learns from what was not yet known; a user may be asked about several
times in a part, or in none. MiniOneRec is tested so (Kong et al. 2025, arXiv 2510.24431).
r rows, h items of all their histories.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_think.corpus.convert.events import Events, places
from recbole_think.errors import InputError

PARTS = ("train", "valid", "test")
SHARES = (8, 9)  # tenths of the rows that end training, and validation
LONGEST = 50  # latest items of a history that a row names: RecBole's MAX_ITEM_LIST_LENGTH
HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"


@dataclass(frozen=True, eq=False)
class Rows:
    """Items, and what was met before each: row ``r`` has ``history[starts[r]:starts[r + 1]]``, oldest first."""

    user: np.ndarray  # int32 [r], places in the ids of the split
    item: np.ndarray  # int32 [r]
    starts: np.ndarray  # int64 [r + 1]
    history: np.ndarray  # int32 [h]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows by part, each user's in order."""

    users: list[str]  # raw ids
    items: list[str]
    parts: Mapping[str, Rows]

    def events(self) -> Events:
        """What the rows tell of: a user's first history, then the items in order; places stand for times."""
        first, users, items = set(), [], []
        for rows in self.parts.values():
            for row, user in enumerate(rows.user.tolist()):
                if user not in first:
                    first.add(user)
                    head = rows.history[rows.starts[row] : rows.starts[row + 1]]
                    users.append(np.full(len(head), user, np.int32))
                    items.append(head)
                users.append(rows.user[row : row + 1])
                items.append(rows.item[row : row + 1])
        user, item = np.concatenate(users), np.concatenate(items)
        order = np.argsort(user, kind="stable")
        user, item = user[order], item[order]
        return Events(self.users, self.items, user, item, np.full(len(user), np.nan, np.float32), places(user))

    def figures(self) -> dict[str, int]:
        """How much is asked."""
        asked = self.parts["test"].user
        rows = {f"rows: {part}": len(found.user) for part, found in self.parts.items()}
        return {**rows, "users that are tested": len(np.unique(asked))}


def by_time(events: Events) -> Split:
    """Cut at two moments: of all events that have one before them, the earliest 80 % to learn from, 10 % to validate.

    Args:
        events: in order of user and time; equal times are cut in that order.

    Raises:
        InputError: a part would be empty.
    """
    place = places(events.user)
    rows = np.flatnonzero(place)
    rows = rows[np.argsort(events.time[rows], kind="stable")]
    ends = [len(rows) * share // 10 for share in SHARES]
    chosen = dict(zip(PARTS, np.split(rows, ends), strict=True))
    if not all(map(len, chosen.values())):
        raise InputError(f"{len(rows)} events have one before them: too few to cut them in three by time")
    return Split(events.users, events.items, {part: _rows(events, place, some) for part, some in chosen.items()})


def write_split(folder: Path, name: str, split: Split, users: Sequence[str], items: Sequence[str]) -> None:
    """Write ``<name>.train.inter``, ``.valid.inter`` and ``.test.inter``; ``users`` and ``items`` are ids as cells.

    Raises:
        InputError: an item's id has a blank, which parts the items of a list.
    """
    if blank := next((item for item in items if " " in item), None):
        raise InputError(f"item {blank!r} has a blank in its id, and blanks part the items of a history; rename it")
    for part, rows in split.parts.items():
        with (folder / f"{name}.{part}.inter").open("w", encoding="utf-8", newline="\n") as file:
            file.write(HEADER)
            file.writelines(_lines(rows, users, items))


def _rows(events: Events, place: np.ndarray, chosen: np.ndarray) -> Rows:
    lengths = np.minimum(place[chosen], LONGEST)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    return Rows(
        events.user[chosen], events.item[chosen], starts, events.item[np.repeat(chosen - lengths, lengths) + within]
    )


def _lines(rows: Rows, users: Sequence[str], items: Sequence[str]) -> Iterator[str]:
    for row, (user, item) in enumerate(zip(rows.user.tolist(), rows.item.tolist(), strict=True)):
        history = rows.history[rows.starts[row] : rows.starts[row + 1]].tolist()
        yield f"{users[user]}\t{' '.join(items[met] for met in history)}\t{items[item]}\n"
