"""Amazon reviews of 2014, 2018 and 2023 (McAuley Lab): a line of JSON per review, a line per product.

| year | reviews | products |
|---|---|---|
| 2014 | ``reviews_<category>_5.json.gz`` or without ``_5`` | ``meta_<category>.json.gz``, each line a Python literal |
| 2018 | ``<category>_5.json.gz`` or without ``_5`` | ``meta_<category>.json.gz`` |
| 2023 | ``<category>.jsonl.gz``, items by ``parent_asin``, times in milliseconds | ``meta_<category>.jsonl.gz`` |

Every file may be unpacked as well. Reviews of 2014 may be Python literals too, which are read line by line. Ratings
alone (``.csv``) are read where there are no reviews.
"""

import json
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

from recbole_think.corpus.convert import delimited
from recbole_think.corpus.convert.download import Remote
from recbole_think.corpus.convert.events import Events, Reading
from recbole_think.corpus.convert.lines import blocks
from recbole_think.corpus.convert.raw import Raw, Source, Table, category_path, clean
from recbole_think.corpus.convert.records import NUMBER, TEXT, WHOLE, columns, literal, loose, records

COLUMN_TYPES = {"user": TEXT, "item": TEXT, "rating": NUMBER, "time": WHOLE}


class Year(NamedTuple):
    """How one of the three collections is written."""

    reviews: tuple[str, ...]  # names of files, {} is the category
    ratings: tuple[str, ...]  # of ratings alone
    order: str  # of the columns there
    products: tuple[str, ...]
    names: Mapping[str, str]  # of fields: user, item, rating, time
    time_unit: int  # of a second
    item: str  # id of a product
    parse: Any  # of a line of products


YEARS = {
    "2014": Year(
        ("reviews_{}_5.json.gz", "reviews_{}_5.json", "reviews_{}.json.gz", "reviews_{}.json"),
        ("ratings_{}.csv",), "user item rating time",
        ("meta_{}.json.gz", "meta_{}.json"),
        {"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"}, 1, "asin", literal,
    ),
    "2018": Year(
        ("{}_5.json.gz", "{}_5.json", "{}.json.gz", "{}.json"),
        ("{}.csv",), "item user rating time",
        ("meta_{}.json.gz", "meta_{}.json"),
        {"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"}, 1, "asin", json.loads,
    ),
    "2023": Year(
        ("{}.jsonl.gz", "{}.jsonl"),
        ("{}.csv.gz", "{}.csv"), "user item rating time",
        ("meta_{}.jsonl.gz", "meta_{}.jsonl"),
        {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"}, 1000, "parent_asin",
        json.loads,
    ),
}  # fmt: skip


def events(raw: Raw, year: Year) -> Events:
    """Every review of a category, or every rating."""
    found = raw.find(*_named(raw, year.reviews), needed=False)
    if found is None:
        return _ratings(raw, year)
    reading = Reading()
    kinds = {year.names[name]: kind for name, kind in COLUMN_TYPES.items()}
    parse = loose if year.parse is literal else json.loads
    for block in blocks(*found, show=raw.show):
        reading.add(columns(block, kinds, raw.rejects, set(kinds), parse), year.names, year.time_unit)
    return reading.events()


def items(raw: Raw, wanted: Collection[str], year: Year) -> Table:
    """Title, categories and brand of products."""
    found = raw.find(*_named(raw, year.products), needed=False)
    table: Table = {}
    for record in records(*found, raw.rejects, year.parse, raw.show) if found else ():
        name = record.get(year.item)
        if isinstance(name, str) and name in wanted and name not in table:
            brand = record.get("brand") or record.get("store")
            categories = record.get("categories") or record.get("category") or record.get("main_category")
            path = category_path(categories)
            table[name] = {"title": clean(record.get("title")), "categories": clean(path), "brand": clean(brand)}
    return table


def _ratings(raw: Raw, year: Year) -> Events:
    names = _named(raw, year.ratings)
    path, member = raw.find(*names, needed=False) or raw.find(*_named(raw, year.reviews), *names)  # type: ignore[misc]
    reading, kinds = Reading(), {name: COLUMN_TYPES[name] for name in year.order.split()}
    lines = delimited.without_header(blocks(path, member, raw.show), "user_id,parent_asin,rating,timestamp")
    for block in lines:
        table = delimited.columns(block, kinds, ",", raw.rejects)
        reading.add(table, {name: name for name in kinds}, year.time_unit)
    return reading.events()


def _named(raw: Raw, patterns: tuple[str, ...]) -> list[str]:
    return [pattern.format(raw.category) for pattern in patterns]


def remotes(category: str, year: str) -> list[Remote]:
    """Where the 5-core of a category (2023: all of it) and its products are."""
    found = YEARS[year]
    return [
        Remote(place.format(category), instead=(tuple(name.format(category) for name in names),))
        for place, names in zip(PLACES[year], (found.reviews, found.products), strict=True)
    ]


LAB = "https://mcauleylab.ucsd.edu/public_datasets/data"
SNAP = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
PLACES = {
    "2014": (f"{SNAP}/reviews_{{}}_5.json.gz", f"{SNAP}/meta_{{}}.json.gz"),
    "2018": (f"{LAB}/amazon_v2/categoryFilesSmall/{{}}_5.json.gz", f"{LAB}/amazon_v2/metaFiles2/meta_{{}}.json.gz"),
    "2023": (
        f"{LAB}/amazon_2023/raw/review_categories/{{}}.jsonl.gz",
        f"{LAB}/amazon_2023/raw/meta_categories/meta_{{}}.jsonl.gz",
    ),
}
CITES = {
    "2014": "McAuley, Targett, Shi, van den Hengel: Image-based Recommendations on Styles and Substitutes. SIGIR 2015",
    "2018": "Ni, Li, McAuley: Justifying Recommendations using Distantly-Labeled Reviews. EMNLP 2019",
    "2023": "Hou et al.: Bridging Language and Items for Retrieval and Recommendation. arXiv 2403.03952",
}  # fmt: skip
HOMES = {
    "2014": "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
    "2018": "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
    "2023": "https://amazon-reviews-2023.github.io/",
}
SOURCES = [
    Source(
        f"amazon-{name}", f"Amazon reviews, {name}", HOMES[name], CITES[name], "research use; do not redistribute",
        f"{year.reviews[0].format('<category>')}, {year.products[0].format('<category>')}",
        partial(events, year=year), partial(items, year=year), categories=True,
        remotes=partial(remotes, year=name),
    )
    for name, year in YEARS.items()
]  # fmt: skip
