"""Events and texts -> RecBole atomic files.

m events; tables by raw id.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from recbole_think.corpus.convert.events import Events, places
from recbole_think.corpus.convert.raw import Table, cell
from recbole_think.errors import InputError

TIES = ("file", "position")
MISSING = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|")
)  # what pandas reads as no value
CHUNK = 1 << 20  # events written at once


def write_events(path: Path, events: Events, ties: str) -> None:
    """Write ``.inter``: user_id, item_id, rating where there is one, timestamp.

    Args:
        path: of the file.
        events: in order of user and time.
        ties: ``file`` keeps times; ``position`` puts an event's place in its user's history there, so that no reader
            can order equal times otherwise.
    """
    users, items = pa.array(events.users, pa.string()), pa.array(events.items, pa.string())
    rated = not np.isnan(events.rating).all()
    time = places(events.user) if ties == "position" else events.time
    names = ["user_id:token", "item_id:token", *(["rating:float"] if rated else []), "timestamp:float"]
    plain = arrow_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        file.write(("\t".join(names) + "\n").encode())
        for start in range(0, len(events), CHUNK):
            part = slice(start, start + CHUNK)
            rating = {"rating": pa.array(events.rating[part])} if rated else {}
            table = pa.table(
                {"user": users.take(pa.array(events.user[part])), "item": items.take(pa.array(events.item[part])),
                 **rating, "time": pa.array(time[part])}
            )  # fmt: skip
            arrow_csv.write_csv(table, file, plain)


def write_table(path: Path, id_name: str, ids: Sequence[str], table: Table) -> None:
    """Write ``.item`` or ``.user``: a line for every id, empty cells where nothing is known."""
    columns = list(dict.fromkeys(name for row in table.values() for name, value in row.items() if value))
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join([f"{id_name}:token", *(f"{name}:token" for name in columns)]) + "\n")
        for raw in ids:
            row = table.get(raw, {})
            file.write("\t".join([raw, *(row.get(name, "") for name in columns)]) + "\n")


def safe_ids(names: Sequence[str]) -> list[str]:
    """Raw ids as cells of an atomic file, each another one; what no reader takes for an id is written in percent.

    A tab, a double quote or two blanks are spelt ``%09``, ``%22``, ``%20%20`` as in an address, and so is every letter
    of an id that pandas, and so RecBole, takes for a missing value (``NA``, ``null``).

    Raises:
        InputError: two ids would become one.
    """
    made = [name if name and cell(name) == name and name not in MISSING else _escaped(name) for name in names]
    if len(set(made)) < len(made):
        seen: dict[str, str] = {}
        for name, written in zip(names, made, strict=True):
            if written in seen:
                raise InputError(f"ids {seen[written]!r} and {name!r} would both be written {written!r}; rename one")
            seen[written] = name
    return made


def _escaped(name: str) -> str:
    spelt = quote(name, safe="", errors="replace")
    return spelt if spelt != name else "".join(f"%{byte:02X}" for byte in name.encode()) or "%"
