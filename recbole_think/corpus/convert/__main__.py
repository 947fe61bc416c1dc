"""Raw data sets as their publishers give them -> RecBole atomic files.

python -m recbole_think.corpus.convert amazon-2014 --category=Beauty --raw=<folder> --out=<data_path>
python run_recbole_think.py --model=OneRecThink --dataset=beauty --data_path=<data_path>
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path

from recbole_think.artifacts import fresh_folder
from recbole_think.corpus.convert import amazon, card, movielens, projects, shops
from recbole_think.corpus.convert.atomic import TIES, safe_ids, write_events, write_table
from recbole_think.corpus.convert.download import fetch
from recbole_think.corpus.convert.events import Events, condensed
from recbole_think.corpus.convert.filtering import FilterOptions, Step, filtered
from recbole_think.corpus.convert.raw import Raw, Source, Table
from recbole_think.corpus.convert.rejects import Rejects
from recbole_think.corpus.convert.split import Split, by_time, write_split
from recbole_think.errors import InputError, exit_code

PUBLISHERS = (movielens, amazon, shops, projects)
SOURCES = {source.name: source for publisher in PUBLISHERS for source in publisher.SOURCES}
MODULE = "python -m recbole_think.corpus.convert"
FIGURES = "statistics.json"
SPLITS = ("none", "time")
HELP = {
    "user_core": "events a user has at least",
    "item_core": "events an item has at least; both at once (k-core)",
    "min_rating": "lowest rating that counts as an event",
    "since": "first day that is kept, such as 2014-01-31",
    "until": "first day that is left out",
    "repeats": "events of the same user and item: keep, first, last",
    "title_words": "words an item's title has at most, and at least one; 0 = whatever its title",
}


def main(argv: Sequence[str]) -> int:
    """Run the command line; return 0, or 2 where what was asked for cannot be done."""
    given = _parser().parse_args(argv)

    def work() -> int:
        sys.stdout.write(_listed() if given.list else _converted(given, argv))
        return 0

    return exit_code(work, "nothing was written")


@dataclass(frozen=True)
class Converted:
    """A data set, ready to be written."""

    events: Events  # in order of user and time
    steps: list[Step]  # what each filter left
    items: Table
    users: Table
    split: Split | None = None  # its rows, where it comes or is cut in parts


def convert(source: Source, raw: Raw, options: FilterOptions, cut: bool = False) -> Converted:
    """Read, filter, split, and look up what is said of the items and users that are left.

    Args:
        source: the publisher's format.
        raw: its files.
        options: of filters; a source that comes split is taken as it is.
        cut: split it by time.
    """
    items: Table | None = None
    if source.split is not None:
        parts = source.split(raw)
        split: Split | None = parts
        events, steps = parts.events(), list[Step]()
    else:
        assert source.events is not None  # a source has the one or the other
        published = source.events(raw)
        _require_events(published, raw)
        if options.title_words:
            items = _items(source, raw, published)
        titles = {name: of.get("title", "") for name, of in (items or {}).items()}
        events, steps = filtered(published, options, titles, raw.rejects)
        events = condensed(events)
        split = by_time(events) if cut else None
    items = _items(source, raw, events) if items is None else {name: items[name] for name in events.items}
    users = source.users(raw, set(events.users)) if source.users else {}
    return Converted(events, steps, items, users, split)


def _require_events(published: Events, raw: Raw) -> None:
    if len(published):
        return
    path = raw.used[-1]
    if raw.rejects.count:
        raise InputError(f"{path} holds no event{raw.rejects.summary()}; is it the file it should be?")
    raise InputError(f"{path}: the file of events is empty (it has a header at most); fetch it again")


def _items(source: Source, raw: Raw, events: Events) -> Table:
    return source.items(raw, set(events.items)) if source.items else {}


def _converted(given: argparse.Namespace, argv: Sequence[str]) -> str:
    source = _source(given.source)
    options = FilterOptions(**{field.name: getattr(given, field.name) for field in fields(FilterOptions)})
    _check(given, source, options)
    name = _name(given, source)
    raw = Raw(given.raw, given.category, not given.quiet, Rejects(given.malformed))
    if given.download:
        _download(source, raw)
    with fresh_folder(given.out / name, given.replace, FIGURES) as folder:
        made = convert(source, raw, options, given.split == "time")
        figures = card.statistics(made.events, made.items, source.timed) | (made.split.figures() if made.split else {})
        _write(folder, name, made, given.ties, source.coded)
        text = card.page(
            name, source, raw, made.steps, figures, given.ties, f"{MODULE} {shlex.join(argv)}", made.split is not None
        )
        (folder / "README.md").write_text(text, encoding="utf-8")
        (folder / FIGURES).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return f"{text}\nwritten: {given.out / name}\n"


def _name(given: argparse.Namespace, source: Source) -> str:
    """Of the data set; a folder right below ``--out``."""
    name = given.name or (given.category if source.categories else source.name).lower()
    if name in (".", "..") or set("/\\") & set(name):
        said = f"--name={name!r}" if given.name else f"--category={given.category!r}"
        raise InputError(f"{said} names no folder right below --out; choose a --name without / and \\")
    return name


def _check(given: argparse.Namespace, source: Source, options: FilterOptions) -> None:
    if given.ties not in TIES:
        raise InputError(f"--ties must be one of {', '.join(TIES)}, got {given.ties!r}")
    if given.split not in SPLITS:
        raise InputError(f"--split must be one of {', '.join(SPLITS)}, got {given.split!r}")
    if given.malformed < 0:
        raise InputError(f"--malformed must not be negative, got {given.malformed}")
    if source.categories and not given.category:
        raise InputError(f"{source.title} come in categories: name one, such as --category=Beauty")
    if source.split is not None and (options != FilterOptions() or given.split != "none"):
        raise InputError(f"{source.name} comes split and is kept as it is: no filter and no --split can be asked for")
    if not source.timed and (given.since or given.until or given.split == "time"):
        raise InputError(f"{source.name} has no times: --since, --until and --split=time cannot be asked for")


def _write(folder: Path, name: str, made: Converted, ties: str, coded: bool) -> None:
    safe = replace(made.events, users=safe_ids(made.events.users), items=safe_ids(made.events.items))
    if made.split is None:
        write_events(folder / f"{name}.inter", safe, ties)
    else:
        write_split(folder, name, made.split, safe.users, safe.items)
    if coded:
        pairs = zip(safe.items, made.events.items, strict=True)
        (folder / f"{name}.item2id").write_text(
            "".join(f"{cell}\t{raw_id}\n" for cell, raw_id in pairs), encoding="utf-8"
        )
    for kind, ids, cells, table in (
        ("item", made.events.items, safe.items, made.items), ("user", made.events.users, safe.users, made.users),
    ):  # fmt: skip
        if table:
            by_cell = {cell: table[raw_id] for raw_id, cell in zip(ids, cells, strict=True) if raw_id in table}
            write_table(folder / f"{name}.{kind}", f"{kind}_id", cells, by_cell)


def _download(source: Source, raw: Raw) -> None:
    if source.remotes is None:
        raise InputError(
            f"{source.name} cannot be fetched by a program; put {source.files} into --raw, from {source.home}"
        )
    for remote in source.remotes(raw.category):
        if remote.is_needed(raw.folder):
            fetch(remote, raw.folder, source.home, raw.show)


def _source(name: str | None) -> Source:
    if name is None:
        raise InputError(f"name a source: {', '.join(SOURCES)} (--list says what each needs)")
    if name not in SOURCES:
        near = get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(SOURCES)}"
        raise InputError(f"unknown source {name!r}; {hint}")
    return SOURCES[name]


def _listed() -> str:
    rows = [(source.name, source.title, source.files) for source in SOURCES.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "".join(f"{line}  {source.home}\n" for line, source in zip(lines, SOURCES.values(), strict=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=MODULE, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", nargs="?", help=f"who published it: {', '.join(SOURCES)}")
    parser.add_argument("--list", action="store_true", help="what each source needs, and its page")
    parser.add_argument("--raw", type=Path, default=Path(), help="folder with the files as published (default: here)")
    parser.add_argument("--out", type=Path, default=Path("dataset"), help="where <name>/<name>.inter goes (dataset)")
    parser.add_argument(
        "--download", action="store_true", help="fetch what --raw lacks from the publisher; goes on if cut"
    )
    parser.add_argument("--name", default="", help="of the data set (default: the category, or the source)")
    parser.add_argument("--category", default="", help="of Amazon, as its files are called: Beauty, All_Beauty, ...")
    for field in fields(FilterOptions):
        kind = {"int": int, "str": str}.get(str(getattr(field.type, "__name__", field.type)), float)
        default = None if field.default is MISSING else field.default
        shown = "" if default in (None, "") else f" (default: {default})"
        parser.add_argument(f"--{field.name}", type=kind, default=default, help=f"{HELP[field.name]}{shown}")
    parser.add_argument("--ties", default="file", help="file: times as published; position: places in a history")
    parser.add_argument(
        "--split",
        default="none",
        help="time: three files, cut at two moments, 80, 10 and 10 %% of the rows (none: one file, split by RecBole)",
    )
    parser.add_argument("--malformed", type=int, default=100, help="lines that may be skipped (default: 100)")
    parser.add_argument("--replace", action="store_true", help="make a data set that is there already anew")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
