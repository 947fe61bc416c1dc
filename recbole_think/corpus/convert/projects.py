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

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from recbole_think.corpus.convert.events import Events, Reading
from recbole_think.corpus.convert.lines import blocks, lines
from recbole_think.corpus.convert.mini_one_rec import mini_one_rec_split
from recbole_think.corpus.convert.raw import Raw, Source, Table, category_path, clean
from recbole_think.corpus.convert.records import CASTS, TEXT, literal, records
from recbole_think.errors import InputError

AT_ONCE = 10_000  # users put away together
Histories = Iterable[tuple[str, list[str]]]


def one_rec_think_events(raw: Raw) -> Events:
    """Histories of OneRec-Think."""
    return _events(_lines(raw, "sequential_data_processed.txt"))


def one_rec_think_items(raw: Raw, wanted: Collection[str]) -> Table:
    """Titles and categories of OneRec-Think."""
    return _texts(raw, "*.pretrain.json", wanted)


def p5_events(raw: Raw) -> Events:
    """Histories of P5, with raw ids where its map is there."""
    users, items = _maps(raw)
    return _events((users.get(user, user), [items.get(i, i) for i in some]) for user, some in _p5_lines(raw))


def p5_items(raw: Raw, wanted: Collection[str]) -> Table:
    """Titles, categories and brands from Amazon's own description of its products."""
    found = raw.find("meta.json.gz", "meta.json", needed=False)
    table: Table = {}
    for record in records(*found, raw.rejects, literal, raw.show) if found else ():
        if (name := str(record.get("asin"))) in wanted:
            table[name] = _described(record)
    return table


def lc_rec_events(raw: Raw) -> Events:
    """Histories of LC-Rec and MiniOneRec."""
    path = raw.only("*.inter.json")
    found = _json(path)
    if not all(isinstance(some, list) for some in found.values()):
        raise InputError(f"{path} should map every user to a list of items")
    return _events(_lists(raw, path, found))


def lc_rec_items(raw: Raw, wanted: Collection[str]) -> Table:
    """Titles, categories and brands of LC-Rec and MiniOneRec."""
    return _texts(raw, "*.item.json", wanted)


def mini_one_rec_items(raw: Raw, wanted: Collection[str]) -> Table:
    """Titles, categories and brands of MiniOneRec."""
    return _texts(raw, "index/*.item.json", wanted)


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
            text = raw.rejects.decoded(block.path, number, line)
            if text is None:
                continue
            user, *some = text.split() or [""]
            if some:
                yield user, some
            else:
                raw.rejects.add(block.path, number, line, "a user without items")


def _lists(raw: Raw, path: Path, found: Mapping[str, list]) -> Iterator[tuple[str, list[str]]]:
    """User and items of every list that has any."""
    for user, some in found.items():
        if some:
            yield user, [str(item) for item in some]
        else:
            raw.rejects.add(str(path), f"user {user[:40]!r}", str(some), "a user without items")


def _p5_lines(raw: Raw) -> Iterator[tuple[str, list[str]]]:
    return _lines(raw, "sequential_data.txt")


def _maps(raw: Raw) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Number -> raw id, of users and items."""
    found = raw.find("datamaps.json", needed=False)
    if found is None:
        return {}, {}
    maps = _json(found[0])
    return _map(found[0], maps, "id2user"), _map(found[0], maps, "id2item")


def _map(path: Path, maps: Mapping[str, Any], kind: str) -> Mapping[str, str]:
    """One of the two; raw ids that are numbers become their text."""
    found, made = maps.get(kind, {}), dict[str, str]()
    if not isinstance(found, dict):
        raise InputError(f"{path}: {kind} should map numbers to raw ids, got {str(found)[:40]!r}; fetch it again")
    for number, name in found.items():
        try:
            made[number] = CASTS[TEXT](name)
        except (TypeError, ValueError, OverflowError) as why:
            raise InputError(
                f"{path}: {kind} should map {number!r} to a raw id, got {str(name)[:40]!r}; fetch it again"
            ) from why
    return made


def _texts(raw: Raw, pattern: str, wanted: Collection[str]) -> Table:
    """Titles, categories and brands of a file that has a record by id."""
    path, table = raw.only(pattern), Table()
    for name, record in _json(path).items():
        if not isinstance(record, dict):
            raw.rejects.add(str(path), f"item {name[:40]!r}", str(record), "no record of named fields")
        elif name in wanted:
            table[name] = _described(record)
    return table


def _described(record: Mapping[str, Any]) -> dict[str, str]:
    return {
        "title": clean(record.get("title")), "categories": clean(category_path(record.get("categories"))),
        "brand": clean(record.get("brand")),
    }  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as why:
        said = f"is not JSON: {why}" if not path.is_file() or path.stat().st_size else "is empty"
        raise InputError(f"{path} {said}; fetch it again") from why
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
