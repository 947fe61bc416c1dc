"""MovieLens 100K, 1M, 20M, 25M and 32M (GroupLens): ratings, films, and for the two small ones people.

| size | ratings | films |
|---|---|---|
| 100K | ``u.data``, tabs | ``u.item``, bars, Latin-1; kinds as nineteen flags named in the README |
| 1M | ``ratings.dat``, ``::`` | ``movies.dat``, ``::``, Latin-1 |
| 20M, 25M, 32M | ``ratings.csv`` with a header | ``movies.csv``, quoted, UTF-8 |

From ``ml-<size>.zip`` as published, or unpacked.
"""

import re
from collections.abc import Collection, Iterator
from functools import partial

from recbole_think.corpus.convert import delimited
from recbole_think.corpus.convert.download import Remote
from recbole_think.corpus.convert.events import Events, Reading
from recbole_think.corpus.convert.lines import Block, blocks, lines
from recbole_think.corpus.convert.raw import Raw, Source, Table, clean
from recbole_think.corpus.convert.records import NUMBER, TEXT, WHOLE

KINDS = {"user": TEXT, "item": TEXT, "rating": NUMBER, "time": WHOLE}
LARGE = ("20m", "25m", "32m")
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
AGES_1M = {
    "1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "56 and more",
}  # fmt: skip
JOBS_1M = (
    "other", "academic or educator", "artist", "clerical or administrative", "college or graduate student",
    "customer service", "doctor or health care", "executive or managerial", "farmer", "homemaker", "K-12 student",
    "lawyer", "programmer", "retired", "sales or marketing", "scientist", "self-employed", "technician or engineer",
    "tradesman or craftsman", "unemployed", "writer",
)  # fmt: skip
YEAR = re.compile(r"^(.*\S)\s*\((\d{4})\)\s*$")
FILES = {
    "100k": ("u.data", "u.item", "u.user"), "1m": ("ratings.dat", "movies.dat", "users.dat"),
    **dict.fromkeys(LARGE, ("ratings.csv", "movies.csv")),
}  # fmt: skip
RATINGS = {"100k": ("u.data", "\t"), "1m": ("ratings.dat", "::"), **dict.fromkeys(LARGE, ("ratings.csv", ","))}


def events(raw: Raw, size: str) -> Events:
    """Every rating."""
    name, separator = RATINGS[size]
    reading = Reading()
    for block in delimited.without_header(_blocks(raw, size, name), "userId,movieId,rating,timestamp"):
        reading.add(delimited.columns(block, KINDS, separator, raw.rejects), {name: name for name in KINDS})
    return reading.events()


def items(raw: Raw, wanted: Collection[str], size: str) -> Table:
    """Title, year and genres of films."""
    return {
        name: {"title": clean(title), "year": year, "genres": clean(" ".join(genres))}
        for name, title, year, genres in _films(raw, size)
        if name in wanted
    }


def users(raw: Raw, wanted: Collection[str], size: str) -> Table:
    """Age, gender and occupation of people."""
    name, separator = ("u.user", "|") if size == "100k" else ("users.dat", "::")
    table: Table = {}
    for values in _rows(raw, _blocks(raw, size, name), separator, 5):
        if values[0] in wanted:
            small = size == "100k"
            age, gender = (values[1], values[2]) if small else (AGES_1M.get(values[2], values[2]), values[1])
            job = values[3] if small else _named(JOBS_1M, values[3])
            table[values[0]] = {"age": clean(age), "gender": clean(gender), "occupation": clean(job)}
    return table


def _films(raw: Raw, size: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """Id, title, year and genres of every film."""
    if size == "100k":
        for values in _rows(raw, _blocks(raw, size, "u.item"), "|", 24):
            genres = [name for name, flag in zip(GENRES_100K, values[5:], strict=True) if flag == "1"]
            yield values[0], *_dated(values[1]), genres
    elif size == "1m":
        for values in _rows(raw, _blocks(raw, size, "movies.dat"), "::", 3):
            yield values[0], *_dated(values[1]), values[2].split("|")
    else:
        films = delimited.without_header(_blocks(raw, size, "movies.csv"), "movieId,title,genres")
        for film in delimited.quoted(films, ["movieId", "title", "genres"], raw.rejects):
            genres = [] if film["genres"] == "(no genres listed)" else film["genres"].split("|")
            yield film["movieId"], *_dated(film["title"]), genres


def _rows(raw: Raw, found: Iterator[Block], separator: str, count: int) -> Iterator[list[str]]:
    """Values of lines in Latin-1."""
    for block in found:
        for number, line in lines(block):
            values = line.decode("latin-1").split(separator)
            if len(values) == count:
                yield values
            else:
                raw.rejects.add(block.path, number, line, f"{len(values)} values instead of {count}")


def _blocks(raw: Raw, size: str, name: str) -> Iterator[Block]:
    where = raw.find(f"ml-{size}.zip", member=f"ml-{size}/{name}")
    assert where is not None  # find raises
    return blocks(*where, show=raw.show)


def _dated(title: str) -> tuple[str, str]:
    """Title and year of ``Heat (1995)``; films without a year have none."""
    found = YEAR.match(title)
    return (found[1], found[2]) if found else (title, "")


def _named(names: tuple[str, ...], number: str) -> str:
    return names[int(number)] if number.isdigit() and int(number) < len(names) else number


def _source(size: str) -> Source:
    place = f"https://files.grouplens.org/datasets/movielens/ml-{size}.zip"
    unpacked = tuple((f"ml-{size}/{name}", name) for name in FILES[size])
    people = partial(users, size=size) if size in ("100k", "1m") else None
    return Source(
        f"ml-{size}", f"MovieLens {size.upper()}", f"https://grouplens.org/datasets/movielens/{size}/",
        "Harper, Konstan: The MovieLens Datasets: History and Context. ACM TiiS 5(4), 2015",
        "research use; see its README", f"ml-{size}.zip, or what it holds", partial(events, size=size),
        partial(items, size=size), people, remotes=lambda _: [Remote(place, f"{place}.md5", unpacked)],
    )  # fmt: skip


SOURCES = [_source(size) for size in RATINGS]
