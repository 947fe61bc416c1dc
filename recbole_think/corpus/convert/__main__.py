"""Raw data sets as their publishers give them -> RecBole atomic files.

python -m recbole_think.corpus.convert amazon-2014 --category=Beauty --raw=<folder> --out=<data_path>
python run_recbole_think.py --model=OneRecThink --dataset=beauty --data_path=<data_path>
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches
from pathlib import Path

from recbole_think.artifacts import fresh_folder
from recbole_think.corpus.convert import amazon, card, movielens, projects, shops
from recbole_think.corpus.convert.atomic import TIES, safe_ids, write_events, write_table
from recbole_think.corpus.convert.download import fetch
from recbole_think.corpus.convert.events import Events, condensed
from recbole_think.corpus.convert.filtering import FilterOptions, filtered
from recbole_think.corpus.convert.raw import Raw, Source, Table
from recbole_think.corpus.convert.rejects import Rejects
from recbole_think.errors import InputError

PUBLISHERS = (movielens, amazon, shops, projects)
SOURCES = {source.name: source for publisher in PUBLISHERS for source in publisher.SOURCES}
MODULE = "python -m recbole_think.corpus.convert"
FIGURES = "statistics.json"
HELP = {
    "user_core": "events a user has at least",
    "item_core": "events an item has at least; both at once (k-core)",
    "min_rating": "lowest rating that counts as an event",
    "since": "first day that is kept, such as 2014-01-31",
    "until": "first day that is left out",
    "repeats": "events of the same user and item: keep, first, last",
}


def main(argv: Sequence[str]) -> int:
    """Run the command line; return 0, or 2 where what was asked for cannot be done."""
    given = _parser().parse_args(argv)
    try:
        if given.list:
            sys.stdout.write(_listed())
            return 0
        sys.stdout.write(_converted(given, argv))
        return 0
    except InputError as why:
        sys.stderr.write(f"error: {why}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written\n")
        return 130


def convert(source: Source, raw: Raw, options: FilterOptions) -> tuple[Events, list, Table, Table]:
    """Read, filter, and look up what is said of the items and users that are left.

    Returns:
        events in order of user and time, what each filter left, item texts, user profiles.
    """
    events, steps = filtered(source.events(raw), options)
    events = condensed(events)
    items = source.items(raw, set(events.items)) if source.items else {}
    users = source.users(raw, set(events.users)) if source.users else {}
    return events, steps, items, users


def _converted(given: argparse.Namespace, argv: Sequence[str]) -> str:
    if given.ties not in TIES:
        raise InputError(f"--ties must be one of {', '.join(TIES)}, got {given.ties!r}")
    source = _source(given.source)
    if source.categories and not given.category:
        raise InputError(f"{source.title} come in categories: name one, such as --category=Beauty")
    name = given.name or (given.category if source.categories else source.name).lower()
    raw = Raw(given.raw, given.category, not given.quiet, Rejects(given.malformed))
    if given.download:
        _download(source, raw)
    if not source.timed and (given.since or given.until):
        raise InputError(f"{source.name} has no times: --since and --until cannot be asked for")
    options = FilterOptions(**{field.name: getattr(given, field.name) for field in fields(FilterOptions)})
    with fresh_folder(given.out / name, given.replace, FIGURES) as folder:
        events, steps, items, users = convert(source, raw, options)
        figures = card.statistics(events, items, source.timed)
        safe = replace(events, users=safe_ids(events.users), items=safe_ids(events.items))
        write_events(folder / f"{name}.inter", safe, given.ties)
        for kind, ids, cells, table in (
            ("item", events.items, safe.items, items), ("user", events.users, safe.users, users),
        ):  # fmt: skip
            if table:
                by_cell = {cell: table[raw_id] for raw_id, cell in zip(ids, cells, strict=True) if raw_id in table}
                write_table(folder / f"{name}.{kind}", f"{kind}_id", cells, by_cell)
        text = card.page(name, source, raw, steps, figures, given.ties, f"{MODULE} {shlex.join(argv)}")
        (folder / "README.md").write_text(text, encoding="utf-8")
        (folder / FIGURES).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return f"{text}\nwritten: {given.out / name}\n"


def _download(source: Source, raw: Raw) -> None:
    if source.remotes is None:
        raise InputError(
            f"{source.name} cannot be fetched by a program; put {source.files} into --raw, from {source.home}"
        )
    for remote in source.remotes(raw.category):
        if not any((raw.folder / name).is_file() for name in remote.instead):
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
    parser.add_argument("--malformed", type=int, default=100, help="lines that may be skipped (default: 100)")
    parser.add_argument("--replace", action="store_true", help="make a data set that is there already anew")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
