"""What other projects ship: histories as lists of items, without times, so that places stand for them.

| project | histories | items |
|---|---|---|
| OneRec-Think | ``sequential_data_processed.txt``: a line per user, user and items | ``*.pretrain.json``: item -> title, categories |
| P5 | ``sequential_data.txt``, the same with numbers; ``datamaps.json`` has the raw ids | ``meta.json.gz``, Amazon's of 2014 |
| LC-Rec, MiniOneRec | ``*.inter.json``: user -> list of items | ``*.item.json``: item -> title, brand, categories |
| MiniOneRec, split | ``train/*.csv``, ``valid/*.csv``, ``test/*.csv``: rows with a history | ``index/*.item.json``, the same |

Their codes (``*.index.json``, ``sid``) are read by ``itemic.codes_file``, with the ``<name>.item2id`` written beside the
atomic files as ``itemic.ids_file`` (docs/codes.md).
"""  # noqa: E501

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recbole_think.corpus.convert.events import Events, Reading
from recbole_think.corpus.convert.lines import blocks, lines
from recbole_think.corpus.convert.raw import Raw, Source, Table, category_path, clean
from recbole_think.corpus.convert.records import literal, records
from recbole_think.corpus.convert.split import LONGEST, PARTS, Rows, Split
from recbole_think.errors import InputError

CSV_COLUMNS = ("user_id", "history_item_id", "item_id")  # of MiniOneRec's rows
AT_ONCE = 10_000  # users put away together
Histories = Iterable[tuple[str, list[str]]]


def one_rec_think_events(raw: Raw) -> Events:
    """Histories of OneRec-Think."""
    return _events(_lines(raw, "sequential_data_processed.txt"))


def one_rec_think_items(raw: Raw, wanted: Collection[str]) -> Table:
    """Titles and categories of OneRec-Think."""
    return _texts(_json(raw.only("*.pretrain.json")), wanted)


def p5_events(raw: Raw) -> Events:
    """Histories of P5, with raw ids where its map is there."""
    users, items = _maps(raw)
    return _events((users.get(user, user), [items.get(i, i) for i in some]) for user, some in _p5_lines(raw))


def p5_items(raw: Raw, wanted: Collection[str]) -> Table:
    """Titles, categories and brands from Amazon's own description of its products."""
    found = raw.find("meta.json.gz", "meta.json", needed=False)
    table: Table = {}
    for record in records(*found, raw.rejects, literal, raw.show) if found else ():
        table |= _texts({str(record.get("asin")): record}, wanted)
    return table


def lc_rec_events(raw: Raw) -> Events:
    """Histories of LC-Rec and MiniOneRec."""
    path = raw.only("*.inter.json")
    found = _json(path)
    if not all(isinstance(some, list) for some in found.values()):
        raise InputError(f"{path} should map every user to a list of items")
    return _events((user, [str(item) for item in some]) for user, some in found.items())


def lc_rec_items(raw: Raw, wanted: Collection[str]) -> Table:
    """Titles, categories and brands of LC-Rec and MiniOneRec."""
    return _texts(_json(raw.only("*.item.json")), wanted)


def mini_one_rec_split(raw: Raw) -> Split:
    """Rows of MiniOneRec, in the parts they come in."""
    users, items = Places(), Places()
    parts = {part: _csv_rows(raw, raw.only(f"{part}/**.csv"), users, items) for part in PARTS}
    return Split(list(users), list(items), parts)


def mini_one_rec_items(raw: Raw, wanted: Collection[str]) -> Table:
    """Titles, categories and brands of MiniOneRec."""
    return _texts(_json(raw.only("index/*.item.json")), wanted)


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
        raise InputError(f"{path} has no row with user_id, history_item_id and item_id")
    return Rows(np.array(user, np.int32), np.array(item, np.int32), np.array(starts), np.array(history, np.int32))


def _met(row: Mapping[str, str | None]) -> list[str]:
    """Items before, from ``[1, 2]``; none where there is no such list."""
    try:
        found = json.loads(row.get("history_item_id") or "[]")
    except ValueError:
        return []
    return [str(name) for name in found] if isinstance(found, list) else []


def _events(histories: Histories) -> Events:
    reading, columns = Reading(), ([], [], [])  # type: ignore[var-annotated]

    def put_away() -> None:
        users, items, times = columns
        try:
            table = pa.table(
                {"user": pa.array(users, pa.string()), "item": pa.array(items, pa.string()), "time": times}
            )
        except UnicodeEncodeError as why:
            raise InputError(f"an id holds half a character: {why.object[:40]!r}; repair the file") from why
        reading.add(table, {name: name for name in table.column_names})
        for column in columns:
            column.clear()

    for count, (user, some) in enumerate(histories, start=1):
        columns[0].extend([user] * len(some))
        columns[1].extend(some)
        columns[2].extend(range(len(some)))
        if count % AT_ONCE == 0:
            put_away()
    put_away()
    return reading.events()


def _lines(raw: Raw, name: str) -> Iterator[tuple[str, list[str]]]:
    """User and items of every line."""
    found = raw.find(name)
    assert found is not None  # find raises
    for block in blocks(*found, show=raw.show):
        for number, line in lines(block):
            user, *some = line.decode("utf-8", "replace").split()
            if some:
                yield user, some
            else:
                raw.rejects.add(block.path, number, line, "a user without items")


def _p5_lines(raw: Raw) -> Iterator[tuple[str, list[str]]]:
    return _lines(raw, "sequential_data.txt")


def _maps(raw: Raw) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Number -> raw id, of users and items."""
    found = raw.find("datamaps.json", needed=False)
    maps = _json(found[0]) if found else {}
    return maps.get("id2user", {}), maps.get("id2item", {})


def _texts(found: Mapping[str, Any], wanted: Collection[str]) -> Table:
    table: Table = {}
    for name, record in found.items():
        if name in wanted and isinstance(record, Mapping):
            table[name] = {
                "title": clean(record.get("title")), "categories": clean(category_path(record.get("categories"))),
                "brand": clean(record.get("brand")),
            }  # fmt: skip
    return table


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as why:
        raise InputError(f"{path} is not JSON: {why}; fetch it again") from why
    if not isinstance(found, dict):
        raise InputError(f"{path} should hold a record by id, and holds a {type(found).__name__}")
    return found


SOURCES = [
    Source(
        "onerec-think", "OneRec-Think's data", "https://arxiv.org/abs/2510.11639",
        "OneRec-Think, arXiv 2510.11639", "as its own source allows",
        "sequential_data_processed.txt, <name>.pretrain.json", one_rec_think_events, one_rec_think_items, timed=False,
        coded=True,
    ),
    Source(
        "p5", "P5's data", "https://github.com/jeykigung/P5", "Geng et al.: Recommendation as Language Processing. "
        "RecSys 2022", "as its own source allows", "sequential_data.txt, datamaps.json, meta.json.gz", p5_events,
        p5_items, timed=False,
    ),
    Source(
        "lc-rec", "data of LC-Rec and MiniOneRec", "https://github.com/RUCAIBox/LC-Rec",
        "Zheng et al.: Adapting Large Language Models by Integrating Collaborative Semantics. ICDE 2024",
        "as its own source allows", "<name>.inter.json, <name>.item.json", lc_rec_events, lc_rec_items, timed=False,
        coded=True,
    ),
    Source(
        "minionerec", "MiniOneRec's data, split by time", "https://github.com/AkaliKong/MiniOneRec",
        "Kong et al.: MiniOneRec. arXiv 2510.24431", "as its own source allows",
        "train/*.csv, valid/*.csv, test/*.csv, index/*.item.json (its folder data/Amazon)", None, mini_one_rec_items,
        timed=False, categories=True, split=mini_one_rec_split, coded=True,
    ),
]  # fmt: skip
