"""Atomic files on disk: is the data set there, and does it have the columns the run reads?

Asked before RecBole loads anything, since RecBole answers a missing folder with a download and a missing column
with a pandas error. Knows nothing of RecBole: takes a folder, a name and column names.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from recbole_think.errors import InputError
from recbole_think.options import near_hint

KINDS = ("token", "token_seq", "float", "float_seq")


def require_dataset(
    folder: Path, name: str, columns: Sequence[str], downloadable: Sequence[str] = (), parts: Sequence[str] = ()
) -> None:
    """Stop unless ``folder/name.inter`` exists and its header names ``columns``.

    Args:
        folder: where the atomic files should be.
        name: the data set.
        columns: fields that will be read from the ``.inter`` file.
        downloadable: names RecBole can download; for those a missing folder is no error.
        parts: of a data set that comes in parts; each has a file ``name.part.inter``.

    Raises:
        InputError: nothing is there, or a column is missing.
    """
    files = [folder / f"{name}.{part}.inter" for part in parts] or [folder / f"{name}.inter"]
    if name in downloadable and not folder.is_dir():
        return
    for inter in files:
        if not inter.is_file():
            raise InputError(_not_found(inter, name, downloadable))
        have = header(inter)
        for column in columns:
            if column not in have:
                raise InputError(
                    f"{inter} has no column {column!r}{near_hint(column, have)} (it has: {', '.join(have)}); "
                    f"rename the column, or name it with --USER_ID_FIELD=, --ITEM_ID_FIELD= or --TIME_FIELD="
                )


def header(path: Path) -> dict[str, str]:
    """Return the ``name:type`` header of an atomic file as ``{name: type}``.

    Raises:
        InputError: the file is not UTF-8, or a column is not written ``name:type``.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline().rstrip("\r\n")
    except UnicodeDecodeError as why:
        raise InputError(f"{path} is not UTF-8 text: {why}; convert it first") from why
    names = {}
    for column in first.split("\t"):
        name, colon, kind = column.partition(":")
        if not colon or kind not in KINDS:
            raise InputError(
                f"{path}: the first line must name tab-separated columns as name:type "
                f"(token, token_seq, float, float_seq), got {column[:60]!r}"
            )
        if name in names:
            raise InputError(f"{path}: the first line names the column {name!r} twice; rename one")
        names[name] = kind
    return names


def read_table(path: Path, id_field: str, what: str, kinds: Collection[str] = KINDS) -> dict[str, dict[str, str]]:
    """Map raw id -> {column: text} for an atomic file of items or users, read literally: a tab is a tab.

    Args:
        path: the file.
        id_field: name of the id column.
        what: ``item`` or ``user``, for errors.
        kinds: types of the columns wanted.

    Raises:
        InputError: no id column, a line with another number of cells, an id listed twice, or not UTF-8.
    """
    columns = header(path)
    if id_field not in columns:
        raise InputError(f"{path} has no id column {id_field!r} (it has: {', '.join(columns)})")
    names = list(columns)
    rows: dict[str, dict[str, str]] = {}
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            lines = file.read().split("\n")[1:]
        except UnicodeDecodeError as why:
            raise InputError(f"{path} is not UTF-8 text: {why}; convert it first") from why
    for number, line in enumerate(lines, start=2):
        if not line.strip("\r"):
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(names):
            raise InputError(
                f"{path}, line {number}: {len(cells)} tab-separated cells, the header names {len(names)}: {line[:80]!r}"
            )
        row = dict(zip(names, cells, strict=True))
        raw = row.pop(id_field)
        if raw in rows:
            raise InputError(f"{path}, line {number}: {what} id {raw!r} is listed twice; keep one line per {what}")
        rows[raw] = {name: text for name, text in row.items() if columns[name] in kinds}
    return rows


def _not_found(inter: Path, name: str, downloadable: Sequence[str]) -> str:
    similar = sorted(known for known in downloadable if name.lower() in known.lower())
    download = f", such as {' or '.join(similar[:3])}" if similar else " (amazon-beauty, ml-1m, yelp, ...)"
    return (
        f"data set {name!r} was not found: {inter} does not exist. Put RecBole atomic files "
        f"under <data_path>/{name}/ and pass --data_path=<data_path>, or convert raw files to atomic ones "
        f"(recbole_think.corpus.convert), or use a name RecBole can download{download}"
    )
