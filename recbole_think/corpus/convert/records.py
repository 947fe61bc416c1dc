"""Lines that each hold a record -> columns, by pyarrow's JSON reader where every line is sound, else one by one.

pyarrow reads a block in a tenth of the time of ``json.loads`` and knows no partial result: where it fails, or does not
find a row for every line, each line is read alone, and the malformed ones are rejected by number.
"""

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.json as arrow_json

from recbole_think.corpus.convert.lines import Block, blocks, lines
from recbole_think.corpus.convert.rejects import Rejects

Parse = Callable[[str], Any]
FARTHEST = 2**63
LARGEST = 3.4e38  # number, either way; events keep 32 bits of it
TEXT, NUMBER, WHOLE, MOMENT = pa.string(), pa.float64(), pa.int64(), pa.timestamp("s")


def _text(value: Any) -> str:
    if isinstance(value, bool) or not (isinstance(value, str) or int(value) == value):
        raise ValueError(f"{value!r} is no word")
    text = value if isinstance(value, str) else str(int(value))
    text.encode("utf-8")  # half a character is none
    return text


def _number(value: Any) -> float:
    found = float(value)
    if not abs(found) <= LARGEST:  # nor is NaN
        raise ValueError(f"{value!r} is no number to reckon with")
    return found


def _whole(value: Any) -> int:
    if not -FARTHEST <= int(value) < FARTHEST:
        raise ValueError(f"{value!r} has more than 64 bits")
    return int(value)


CASTS: dict[pa.DataType, Callable[[Any], Any]] = {
    TEXT: _text, NUMBER: _number, WHOLE: _whole, MOMENT: datetime.fromisoformat,
}  # fmt: skip


def columns(
    block: Block, wanted: Mapping[str, pa.DataType], rejects: Rejects, needed: set[str], parse: Parse = json.loads
) -> pa.Table:
    """Fields of lines, in order; lines that are no record with those needed are rejected.

    Args:
        block: the lines.
        wanted: type (``TEXT``, ``NUMBER``, ``WHOLE``, ``MOMENT``) by name of the field.
        rejects: told of what cannot be used.
        needed: fields without which a line is of no use; the others may be missing.
        parse: what reads a line; ``literal`` where the publisher wrote Python, ``loose`` where that or JSON.
    """
    schema = pa.schema(list(wanted.items()))
    found = _at_once(block, schema) if parse is not literal else None
    if found is None or any(unfit(found[name]) for name in needed):
        rows = []
        for number, line in lines(block):
            record = _parsed(block, number, line, parse, rejects)
            if record is not None and (row := _row(block, number, line, record, wanted, rejects, needed)):
                rows.append(row)
        found = pa.Table.from_pylist(rows, schema)
    return found


def records(path: Path, member: str, rejects: Rejects, parse: Parse = json.loads, show: bool = True) -> Iterator[dict]:
    """Every record of a file, one by one, as a dict.

    Args:
        path: of the file.
        member: within it, if it is a ``.zip``.
        rejects: told of what cannot be used.
        parse: what reads a line; ``literal`` where the publisher wrote Python.
        show: a progress bar.
    """
    for block in blocks(path, member, show):
        for number, line in lines(block):
            found = _parsed(block, number, line, parse, rejects)
            if found is not None:
                yield found


def unfit(column: pa.ChunkedArray) -> bool:
    """Whether a column lacks a value, or holds a number that is none or too large."""
    if column.type == NUMBER and not compute.all(compute.less_equal(compute.abs(column), LARGEST), min_count=0).as_py():
        return True  # what is NaN is not less
    return bool(column.null_count or (column.type == TEXT and compute.any(compute.equal(column, "")).as_py()))


def literal(line: str) -> Any:
    """A line that is a Python literal, never executed."""
    try:
        return ast.literal_eval(line)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as why:
        raise ValueError(str(why)) from why


def loose(line: str) -> Any:
    """A line of JSON or, where it is none, a Python literal; what is neither is said as of JSON."""
    try:
        return json.loads(line)
    except ValueError as why:
        try:
            return literal(line)
        except ValueError:
            raise why from None


def _at_once(block: Block, schema: pa.Schema) -> pa.Table | None:
    """All lines by pyarrow, None where one of them is not as it should be."""
    try:
        block.text.decode("utf-8")
        found = arrow_json.read_json(
            pa.BufferReader(block.text),
            read_options=arrow_json.ReadOptions(block_size=len(block.text) + 1),
            parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    ends = block.text.count(b"\n") + (not block.text.endswith(b"\n"))
    return found if found.num_rows == ends or found.num_rows == sum(1 for _ in lines(block)) else None


def _row(
    block: Block, number: int, line: bytes, found: Mapping[str, Any], wanted: Mapping[str, pa.DataType],
    rejects: Rejects, needed: set[str],
) -> dict[str, Any] | None:  # fmt: skip
    """The fields of one record, None where it is of no use."""
    row: dict[str, Any] = {}
    for name, kind in wanted.items():
        try:
            row[name] = None if found.get(name) is None else CASTS[kind](found[name])
        except (TypeError, ValueError, OverflowError):
            rejects.add(block.path, number, line, f"{name} is {str(found[name])[:40]!r}")
            return None
        if row[name] in (None, "") and name in needed:
            rejects.add(block.path, number, line, f"it has no {name!r}")
            return None
    return row


def _parsed(block: Block, number: int, line: bytes, parse: Parse, rejects: Rejects) -> dict[str, Any] | None:
    text = rejects.decoded(block.path, number, line)
    if text is None:
        return None
    try:
        found = parse(text)
    except (ValueError, RecursionError) as why:
        rejects.add(block.path, number, line, str(why))
        return None
    if not isinstance(found, dict):
        rejects.add(block.path, number, line, "no record of named fields")
        return None
    return found
