"""The .user file, read literally: one profile a user, for persona grounding.

Takes an atomic file and raw ids; gives "age 24, gender M, occupation technician" per RecBole user, or None where the
file says nothing. Columns whose values are nearly one per person (post codes, names) describe nobody else and are left
out. Knows nothing of tokenizers.
"""

from collections.abc import Sequence
from pathlib import Path

from recbole_think.corpus.files import read_table
from recbole_think.corpus.items import neutralise
from recbole_think.errors import InputError

MOST_DISTINCT = 0.5  # a column with more distinct values than this share of the users tells no group
FEW = 100  # unless it has no more than this many values


def read_profiles(path: Path, id_field: str, raw_ids: Sequence[str], inter: Path) -> list[str | None]:
    """Read the profile of every user RecBole knows.

    Args:
        path: the ``.user`` file; absent means that nobody has a profile.
        id_field: name of the id column.
        raw_ids: raw id per RecBole user, padding left out.
        inter: the ``.inter`` file, whose users are those that exist.

    Returns:
        One text or None per raw id, in that order.

    Raises:
        InputError: a malformed file, or users the ``.inter`` file does not have.
    """
    if not path.is_file():
        return [None] * len(raw_ids)
    rows = require_known(path, id_field, inter)
    columns = list(next(iter(rows.values()), {}))
    told = [name for name in columns if _describes_groups([row[name] for row in rows.values()])]
    return [_profile(rows.get(raw, {}), told) for raw in raw_ids]


def require_known(path: Path, id_field: str, inter: Path) -> dict[str, dict[str, str]]:
    """Read the ``.user`` file and return its rows by raw id; its users must be users of the ``.inter`` file.

    Raises:
        InputError: a malformed file, or a user that ``inter`` does not have.
    """
    rows = read_table(path, id_field, "user")
    if not inter.is_file():  # split into benchmark files, or about to be downloaded
        return rows
    with inter.open(encoding="utf-8-sig") as file:
        place = [column.partition(":")[0] for column in file.readline().rstrip("\r\n").split("\t")].index(id_field)
        known = {line.rstrip("\r\n").split("\t")[place] for line in file if line.strip()}
    unknown = [raw for raw in rows if raw not in known]
    if unknown:
        raise InputError(
            f"{path}: {len(unknown)} of {len(rows)} users are not in {inter.name}, the first is {unknown[0]!r}; "
            f"do both files use the same ids? Remove those lines, or repair column {id_field!r}"
        )
    return rows


def _describes_groups(values: Sequence[str]) -> bool:
    distinct = len(set(values))
    return 1 < distinct <= max(FEW, MOST_DISTINCT * len(values)) and distinct < len(values)


def _profile(row: dict[str, str], told: Sequence[str]) -> str | None:
    words = [(name.replace("_", " "), neutralise(row[name])) for name in told if row.get(name)]
    return ", ".join(f"{name} {value}" for name, value in words if value) or None
