"""Codes of others: read and written in the files that code makers exchange.

    python -m recbole_think.itemic.exchange export <run folder> <out.json> [--style plain|boundaries]

Two files belong together. One holds codes by a number of the project that made them: ``{"0": ["<a_1>", "<b_3>"], ...}``
as MiniOneRec, LC-Rec and LETTER write ``<dataset>.index.json``, or OneRec-Think's spelling of an item,
``"<|sid_begin|><s_a_1><s_b_3><|sid_end|>"``, as a string or as the ``sid`` of an object (its ``Beauty.pretrain.json``).
The other says which raw item id each number stands for: lines ``raw id <tab> number`` without a header (LC-Rec's and
MiniOneRec's ``<dataset>.item2id``), or JSON ``{raw id: number}``. A table made by many machines
(``cluster/tasks/codes.py``) needs none: its rows are the items.

Inside there are only numbers; a token is spelt ``<a_1>`` as in ``vocabulary``. Imported codes come without vectors and
centres, so collisions are treated by number (``collisions.without_collisions``). Knows nothing of vectors or RecBole.
"""

import argparse
import hashlib
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_think.artifacts import read_json, write_text
from recbole_think.errors import InputError
from recbole_think.itemic.codes import MOST_LEVELS, Codes
from recbole_think.itemic.collisions import without_collisions
from recbole_think.itemic.options import TABLE, ItemicOptions

log = logging.getLogger(__name__)
STYLES = ("plain", "boundaries")
IDS_NAME = "items.item2id"  # in a run folder's itemic/, and beside an exported file under its name
MOST_CODES = 65_536  # of a level: a larger number is a slip, and would be a row of the language model
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BEGIN, END = "<|sid_begin|>", "<|sid_end|>"
TOKEN = re.compile(r"<(?:s_)?([a-z])_([0-9]+)>")


def spelt(row: Sequence[int], style: str) -> list[str] | str:
    """Spell the codes of one item: a list of tokens, or one string between boundaries."""
    if style == "plain":
        return [f"<{LETTERS[level]}_{code}>" for level, code in enumerate(row)]
    return BEGIN + "".join(f"<s_{LETTERS[level]}_{code}>" for level, code in enumerate(row)) + END


def parsed(entry: Any, where: str) -> tuple[int, ...]:
    """Read the codes of one item in either spelling.

    Args:
        entry: a list of tokens, a string of them, or an object with such a ``sid``.
        where: file and item, for the message.

    Raises:
        InputError: a token that cannot be read, a level out of turn, or a code beyond ``MOST_CODES``.
    """
    entry = entry.get("sid") if isinstance(entry, dict) else entry
    tokens = "".join(entry) if isinstance(entry, list) and all(isinstance(t, str) for t in entry) else entry
    text = tokens if isinstance(tokens, str) else ""
    if text.startswith(BEGIN) and text.endswith(END):
        text = text[len(BEGIN) : -len(END)]
    found = TOKEN.findall(text)
    letters = "".join(letter for letter, _ in found)
    if not found or TOKEN.sub("", text) or letters != LETTERS[: len(letters)] or len(found) > MOST_LEVELS:
        raise InputError(
            f"{where}: cannot read {str(entry)[:80]!r} as codes; expected tokens from level a on, such as "
            f'["<a_1>", "<b_3>"] or "{BEGIN}<s_a_1><s_b_3>{END}"'
        )
    codes = tuple(int(number) for _, number in found)
    if max(codes) >= MOST_CODES:
        raise InputError(f"{where}: code {max(codes)} is out of reach, a level may have {MOST_CODES}; repair the file")
    return codes


def read_codes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read codes by internal id.

    Raises:
        InputError: not such a file, a token that cannot be read, an item twice, or items of different length.
    """
    table = {item: parsed(entry, f"{path}, item {item!r}") for item, entry in _read_object(path, "codes_file").items()}
    if not table:
        raise InputError(f"{path} holds no items; name the index file in itemic.codes_file")
    levels = len(next(iter(table.values())))
    for item, row in table.items():
        if len(row) != levels:
            raise InputError(
                f"{path}, item {item!r}: {len(row)} levels, the first item has {levels}; every item needs equally many"
            )
    return table


def read_ids(path: Path) -> dict[str, str]:
    """Read an id map as ``{raw id: internal id}``, both as text.

    Raises:
        InputError: not such a file, or an id of either kind twice.
    """
    if path.suffix == ".json":
        pairs = [(raw, str(internal)) for raw, internal in _read_object(path, "ids_file").items()]
    else:
        pairs = []
        for number, line in enumerate(_read_text(path, "ids_file").split("\n"), start=1):
            raw, _, internal = line.strip("\r").rpartition("\t")
            if not line.strip():
                continue
            if not (raw and internal):
                raise InputError(f"{path}, line {number}: expected raw id <tab> internal id, got {line[:80]!r}")
            pairs.append((raw, internal))
    ids: dict[str, str] = {}
    raw_of: dict[str, str] = {}
    for raw, internal in pairs:
        if raw in ids:
            raise InputError(f"{path}: raw item id {raw!r} stands twice; keep one line per item")
        if internal in raw_of:
            raise InputError(f"{path}: internal id {internal!r} stands for {raw_of[internal]!r} and for {raw!r}")
        ids[raw], raw_of[internal] = internal, raw
    return ids


def imported_codes(options: ItemicOptions, raw_ids: Sequence[str]) -> tuple[Codes, np.ndarray, dict]:
    """Read the codes of a catalogue from ``codes_file`` and ``ids_file``.

    A level has as many codes as the largest one of the whole file says (largest + 1), so that another filtering of the
    same catalogue has the same codebooks.

    Args:
        options: the ``itemic:`` block.
        raw_ids: raw id per item, in RecBole's order without padding.

    Returns:
        As ``build.build_codes``: the codes, the table as it stood in the file, and figures.

    Raises:
        InputError: files that cannot be read, do not belong together, or do not cover the catalogue.
    """
    if options.codes_file.endswith(TABLE):
        return _table_of_rows(Path(options.codes_file), len(raw_ids), options.collisions)
    codes_path, ids_path = Path(options.codes_file), Path(options.ids_file)
    codes, ids = read_codes(codes_path), read_ids(ids_path)
    known = set(ids.values())
    _require_all(
        [internal for internal in codes if internal not in known],
        f"{ids_path} does not know the internal id", f"in {codes_path}; do the two files belong together?",
    )  # fmt: skip
    _require_all(
        [raw for raw in raw_ids if raw not in ids], f"{ids_path} misses the item",
        "in this data set; are the codes of another catalogue?",
    )  # fmt: skip
    _require_all(
        [raw for raw in raw_ids if ids[raw] not in codes], f"{codes_path} has no codes for the item",
        "in this data set; are they of another catalogue?",
    )  # fmt: skip
    log.info("codes of %d items from %s, %d of them in this catalogue", len(codes), codes_path, len(raw_ids))
    table = np.array([codes[ids[raw]] for raw in raw_ids], dtype=np.int64)
    sizes = tuple(max(level) + 1 for level in zip(*codes.values(), strict=True))
    settled, sizes = without_collisions(table, sizes, options.collisions)
    return Codes(settled, sizes), table, {"method": "imported"}


def _table_of_rows(path: Path, n: int, collisions: str) -> tuple[Codes, np.ndarray, dict]:
    """Codes of a table whose rows are the items, as ``imported_codes`` gives them."""
    if not path.is_file():
        raise InputError(f"itemic.codes_file: no file {path}")
    try:
        found = Codes.load(path)
    except KeyError as why:
        raise InputError(
            f"{path} holds no code table ({why} is missing): name one that the cluster's merge wrote"
        ) from why
    if len(found.table) != n:
        raise InputError(
            f"{path} has codes of {len(found.table)} items, this catalogue has {n}: one row per item is expected, in "
            f"RecBole's order, padding left out"
        )
    settled, sizes = without_collisions(found.table, found.sizes, collisions)
    return Codes(settled, sizes), found.table, {"method": "imported"}


def _require_all(missing: list[str], wrong: str, which: str) -> None:
    """Stop if anything is missing, naming the first and the count."""
    if missing:
        raise InputError(f"{wrong} {missing[0]!r}, the first of {len(missing)} {which}")


def file_digests(options: ItemicOptions) -> dict[str, str]:
    """Digests of the files codes are made from, so that a run folder notices when one has changed."""
    files = {"codes_file": options.codes_file, "ids_file": options.ids_file}
    texts = {key: file for key, file in files.items() if file and not file.endswith(TABLE)}
    found = {key: hashlib.sha256(_read_text(Path(file), key).encode()) for key, file in texts.items()}
    tables = [(key, file) for key, file in files.items() if file and key not in texts]
    for key, file in [*tables, *((f"vector_files[{at}]", file) for at, file in enumerate(options.vector_files))]:
        evaluated = Path(file) / "evaluation" / "test.json"
        if Path(file).is_file():  # what is absent is refused by its reader
            with Path(file).open("rb") as stream:
                found[key] = hashlib.file_digest(stream, "sha256")
        elif evaluated.is_file():  # of a run folder
            found[key] = hashlib.sha256(read_json(evaluated)["made_from"]["weights"].encode())
    return {f"content of itemic.{key}": content.hexdigest()[:16] for key, content in found.items()}


def write_ids(path: Path, raw_ids: Sequence[str]) -> None:
    """Write the id map of a catalogue, rows counted from 0 as code makers do (RecBole's id is one more)."""
    write_text(path, "".join(f"{raw}\t{row}\n" for row, raw in enumerate(raw_ids)))


def export(folder: Path, out: Path, style: str) -> Path:
    """Write the codes of a run folder to ``out``, and the id map beside it; return the path of the map.

    Raises:
        InputError: not a run folder with codes, or made before id maps were kept.
    """
    source = folder / "itemic"
    if not (source / "codes.safetensors").is_file() or not (source / IDS_NAME).is_file():
        raise InputError(f"{folder} holds no itemic/codes.safetensors and itemic/{IDS_NAME}; name a run folder")
    table = Codes.load(source / "codes.safetensors").table.tolist()
    ids = out.with_suffix(".item2id")
    write_text(out, json.dumps({str(row): spelt(codes, style) for row, codes in enumerate(table)}) + "\n")
    write_text(ids, (source / IDS_NAME).read_text(encoding="utf-8"))
    return ids


def _read_text(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as why:
        raise InputError(f"itemic.{option}: no file {path}") from why
    except UnicodeDecodeError as why:
        raise InputError(f"{path} is not UTF-8 text: {why}; convert it first") from why


def _read_object(path: Path, option: str) -> dict[str, Any]:
    """Read a JSON object in which no key stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"{path}: {twice!r} stands twice; keep one entry per item")
        return content

    try:
        content = json.loads(_read_text(path, option), object_pairs_hook=once)
    except json.JSONDecodeError as why:
        raise InputError(f"{path} is not readable JSON: {why}; is the download whole?") from why
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold one JSON object, one entry per item, got a {type(content).__name__}")
    return content


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``export <run folder> <out.json> [--style plain|boundaries]``."""
    parser = argparse.ArgumentParser(prog="python -m recbole_think.itemic.exchange", description="Codes for others.")
    command = parser.add_subparsers(dest="command", required=True).add_parser("export", help="write a run's codes")
    command.add_argument("folder", type=Path, help="run folder")
    command.add_argument("out", type=Path, help="file of codes; the id map is written beside it as <out>.item2id")
    command.add_argument("--style", choices=STYLES, default=STYLES[0])
    given = parser.parse_args(argv)
    try:
        ids = export(given.folder, given.out, given.style)
    except InputError as why:
        sys.stderr.write(f"error: {why}\n")
        return 2
    sys.stdout.write(f"{given.out}\n{ids}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
