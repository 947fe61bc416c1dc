"""MiniOneRec's data, split: ``train/*.csv``, ``valid/*.csv`` and ``test/*.csv``, rows with a history."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recbole_think.corpus.convert.raw import Raw
from recbole_think.corpus.convert.split import LONGEST, PARTS, Rows, Split
from recbole_think.errors import InputError

CSV_COLUMNS = ("user_id", "history_item_id", "item_id")


def mini_one_rec_split(raw: Raw) -> Split:
    """Rows of MiniOneRec, in the parts they come in."""
    users, items = Places(), Places()
    parts = {part: _csv_rows(raw, raw.only(f"{part}/**.csv"), users, items) for part in PARTS}
    return Split(list(users), list(items), parts)


class Places(dict[str, int]):
    """Ids and their places in order of first appearance."""

    def __missing__(self, name: str) -> int:
        self[name] = place = len(self)
        return place


def _csv_rows(raw: Raw, path: Path, users: Places, items: Places) -> Rows:
    """Read ``user_id``, ``history_item_id`` (a list) and ``item_id``; histories are cut to the latest."""
    user: list[int] = []
    item: list[int] = []
    starts, history = [0], list[int]()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not reader.fieldnames:
                raise InputError(f"{path} is empty; fetch it again")
            if lacking := [name for name in CSV_COLUMNS if name not in (reader.fieldnames or ())]:
                raise InputError(f"{path} has no column {lacking[0]!r} (it has: {', '.join(reader.fieldnames or ())})")
            for number, row in enumerate(reader, start=2):  # rows, the header being the first
                met = _met(row)
                if not met or not row["user_id"] or not row["item_id"]:
                    raw.rejects.add(
                        str(path), number, str(row).encode(), "not a user, a list of items before, and an item"
                    )
                    continue
                user.append(users[row["user_id"]])
                history.extend(items[name] for name in met[-LONGEST:])
                item.append(items[row["item_id"]])
                starts.append(len(history))
    except (OSError, UnicodeDecodeError, csv.Error) as why:
        raise InputError(f"{path} cannot be read as comma-separated UTF-8: {why}; fetch it again") from why
    if not user:
        raise InputError(f"{path} has no row with user_id, history_item_id and item_id{raw.rejects.summary()}")
    return Rows(np.array(user, np.int32), np.array(item, np.int32), np.array(starts), np.array(history, np.int32))


def _met(row: Mapping[str, str | None]) -> list[str]:
    """Items before, from ``[1, 2]``; none where there is no such list."""
    try:
        found = json.loads(row.get("history_item_id") or "[]")
    except ValueError:
        return []
    return [str(name) for name in found] if isinstance(found, list) else []
