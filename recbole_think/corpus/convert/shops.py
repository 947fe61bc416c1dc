"""Yelp and Steam: businesses and games, a record a line.

Yelp's open data set: ``yelp_academic_dataset_review.json`` (user_id, business_id, stars, date to the second),
``yelp_academic_dataset_business.json`` (name, categories, city), ``yelp_academic_dataset_user.json`` (yelping_since).
Steam (Kang & McAuley 2018): ``steam_reviews.json.gz`` (username, product_id, date to the day) and
``steam_games.json.gz`` (id, app_name, genres, publisher), Python literals.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from recbole_think.corpus.convert.download import Remote
from recbole_think.corpus.convert.events import Events, Reading
from recbole_think.corpus.convert.lines import blocks
from recbole_think.corpus.convert.raw import Raw, Source, Table, clean
from recbole_think.corpus.convert.records import MOMENT, NUMBER, TEXT, columns, literal, records


@dataclass(frozen=True)
class Shop:
    """How a publisher writes."""

    reviews: tuple[str, ...]  # names of files
    products: tuple[str, ...]
    kinds: dict[str, pa.DataType]  # fields of a review,
    names: dict[str, str]  # and what they are
    item: str  # id of a product
    texts: dict[str, tuple[str, ...]]  # column of an item -> fields of a product, the first that says anything
    parse: Any  # of a line


YELP = Shop(
    ("yelp_academic_dataset_review.json", "review.json"),
    ("yelp_academic_dataset_business.json", "business.json"),
    {"user_id": TEXT, "business_id": TEXT, "stars": NUMBER, "date": MOMENT},
    {"user": "user_id", "item": "business_id", "rating": "stars", "time": "date"},
    "business_id",
    {"title": ("name",), "categories": ("categories",), "city": ("city",)},
    json.loads,
)
STEAM = Shop(
    ("steam_reviews.json.gz", "steam_reviews.json", "steam_new.json.gz"),
    ("steam_games.json.gz", "steam_games.json"),
    {"username": TEXT, "product_id": TEXT, "date": MOMENT},
    {"user": "username", "item": "product_id", "time": "date"},
    "id",
    {"title": ("app_name", "title"), "genres": ("genres", "tags"), "publisher": ("publisher", "developer")},
    literal,
)


def events(raw: Raw, shop: Shop) -> Events:
    """Every review."""
    reading = Reading()
    found = raw.find(*shop.reviews)
    assert found is not None  # find raises
    for block in blocks(*found, show=raw.show):
        reading.add(columns(block, shop.kinds, raw.rejects, set(shop.kinds), shop.parse), shop.names)
    return reading.events()


def items(raw: Raw, wanted: Collection[str], shop: Shop) -> Table:
    """Texts of products."""
    found = raw.find(*shop.products, needed=False)
    table: Table = {}
    for record in records(*found, raw.rejects, shop.parse, raw.show) if found else ():
        name = str(record.get(shop.item))
        if name in wanted and name not in table:
            said = {column: [record.get(field) for field in fields] for column, fields in shop.texts.items()}
            table[name] = {column: clean(_joined(next(filter(None, values), None))) for column, values in said.items()}
    return table


def yelp_users(raw: Raw, wanted: Collection[str]) -> Table:
    """Year since which a person has been there; counts and means in the file hold what came after, test events too."""
    found = raw.find("yelp_academic_dataset_user.json", "user.json", needed=False)
    table: Table = {}
    for record in records(*found, raw.rejects, json.loads, raw.show) if found else ():
        if (name := str(record.get("user_id"))) in wanted:
            table[name] = {"since": clean(str(record.get("yelping_since") or "")[:4])}
    return table


def _joined(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _source(name: str, title: str, home: str, cite: str, terms: str, shop: Shop, users=None, remotes=None) -> Source:
    files = f"{shop.reviews[0]}, {shop.products[0]}"
    read = partial(events, shop=shop), partial(items, shop=shop)
    return Source(name, title, home, cite, terms, files, *read, users=users, remotes=remotes)


SOURCES = [
    _source(
        "yelp", "Yelp open data set", "https://business.yelp.com/data/resources/open-dataset/", "Yelp Open Dataset",
        "by Yelp's agreement, academic use; do not redistribute", YELP, yelp_users,
    ),
    _source(
        "steam", "Steam reviews", "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
        "Kang, McAuley: Self-Attentive Sequential Recommendation. ICDM 2018", "research use", STEAM,
        remotes=lambda _: [
            Remote(f"https://cseweb.ucsd.edu/~wckang/{names[0]}", instead=(names,))
            for names in (STEAM.reviews, STEAM.products)
        ],
    ),
]  # fmt: skip
