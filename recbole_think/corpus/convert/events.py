"""Events while they are read: users and items as numbers in order of appearance, 20 bytes an event.

m events.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Events:
    """Who met what when, in the order of the file."""

    users: list[str]  # raw ids
    items: list[str]
    user: np.ndarray  # int32 [m], places in ``users``
    item: np.ndarray  # int32 [m], places in ``items``
    rating: np.ndarray  # float32 [m]; NaN where there is none
    time: np.ndarray  # int64 [m], seconds since 1970, or places in a history

    def __len__(self) -> int:
        return len(self.user)

    def where(self, kept: np.ndarray) -> "Events":
        """Those that a mask, bool [m], or places, int64 [k], choose; ids keep their numbers."""
        return Events(self.users, self.items, self.user[kept], self.item[kept], self.rating[kept], self.time[kept])


def condensed(events: Events) -> Events:
    """The same events with ids that occur alone, in order of first appearance."""
    parts = {}
    for name, ids in (("user", events.users), ("item", events.items)):
        column = getattr(events, name)
        kept, first, inverse = np.unique(column, return_index=True, return_inverse=True)
        order = np.argsort(first)
        number = np.empty(len(kept), np.int32)
        number[order] = np.arange(len(kept), dtype=np.int32)
        parts[name] = (number[inverse], [ids[place] for place in kept[order].tolist()])
    (user, users), (item, items) = parts["user"], parts["item"]
    return Events(users, items, user, item, events.rating, events.time)


def places(user: np.ndarray) -> np.ndarray:
    """Place of each event in its user's history, from 0: int64 [m]; users' events lie together."""
    begins = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    return np.arange(len(user)) - np.repeat(begins, np.diff(np.r_[begins, len(user)]))


class Numbering:
    """Raw ids -> numbers in order of appearance; ids are kept by pyarrow, a tenth the size of Python's words."""

    def __init__(self):
        self.chunks: list[pa.DictionaryArray] = []

    def add(self, column: pa.ChunkedArray) -> None:
        """Append ids."""
        self.chunks += column.dictionary_encode().chunks

    def numbered(self) -> tuple[np.ndarray, list[str]]:
        """Number of every id, int32 [m], and the ids by number."""
        if not self.chunks:
            return np.empty(0, np.int32), []
        whole = pa.chunked_array(self.chunks).unify_dictionaries()
        self.chunks = []
        parts = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in whole.chunks]
        return np.concatenate(parts).astype(np.int32), whole.chunk(0).dictionary.to_pylist()


@dataclass
class Reading:
    """Gathers events, table by table."""

    users: Numbering = field(default_factory=Numbering)
    items: Numbering = field(default_factory=Numbering)
    ratings: list[np.ndarray] = field(default_factory=list)
    times: list[np.ndarray] = field(default_factory=list)

    def add(self, table: pa.Table, names: Mapping[str, str], time_unit: float = 1) -> None:
        """Append a table.

        Args:
            table: of records.
            names: what its columns are called, by ``user``, ``item``, ``rating`` and ``time``; the last two may lack.
            time_unit: divides times to give seconds.
        """
        if not table.num_rows:
            return
        none = np.full(table.num_rows, np.nan)
        self.users.add(table[names["user"]])
        self.items.add(table[names["item"]])
        self.ratings.append(_numbers(table, names.get("rating"), none).astype(np.float32))
        time = _numbers(table, names.get("time"), none) // time_unit
        self.times.append(np.nan_to_num(time).astype(np.int64))

    def events(self) -> Events:
        """All of them; nothing can be added afterwards."""
        rating = np.concatenate([np.empty(0, np.float32), *self.ratings])
        time = np.concatenate([np.empty(0, np.int64), *self.times])
        (user, users), (item, items) = self.users.numbered(), self.items.numbered()
        return Events(users, items, user, item, rating, time)


def _numbers(table: pa.Table, name: str | None, otherwise: np.ndarray) -> np.ndarray:
    if name is None:
        return otherwise
    column = table[name]
    return (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy()
