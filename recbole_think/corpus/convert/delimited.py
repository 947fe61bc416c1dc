"""Tables of values between separators -> columns, by pyarrow's CSV reader where all lines are sound, else singly."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv

from recbole_think.corpus.convert.lines import Block, lines
from recbole_think.corpus.convert.records import CASTS, unfit
from recbole_think.corpus.convert.rejects import Rejects


def columns(block: Block, kinds: Mapping[str, pa.DataType], separator: str, rejects: Rejects) -> pa.Table:
    """Columns of lines that hold as many values, in order; others are rejected.

    Args:
        block: the lines, without a header.
        kinds: type of every column by name, as they stand in a line.
        separator: between two values, of one or more letters; values that hold it are not quoted.
        rejects: told of what cannot be used.
    """
    text = block.text if len(separator) == 1 else block.text.replace(separator.encode(), b"\t")
    try:
        found = arrow_csv.read_csv(
            pa.BufferReader(text),
            read_options=arrow_csv.ReadOptions(column_names=list(kinds), block_size=len(text) + 1),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator if len(separator) == 1 else "\t", quote_char=False, ignore_empty_lines=True
            ),
            convert_options=arrow_csv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True),
        )
        if b"\0" not in text and not any(map(unfit, found.columns)):
            return found
    except pa.ArrowException:
        pass
    rows = [row for number, line in lines(block) if (row := _row(block, number, line, kinds, separator, rejects))]
    return pa.Table.from_pylist(rows, pa.schema(list(kinds.items())))


def without_header(blocks: Iterator[Block], header: str) -> Iterator[Block]:
    """Blocks without the line that names the columns, if it is the first."""
    for block in blocks:
        first, _, rest = block.text.partition(b"\n")
        if block.first == 1 and first.decode("utf-8", "replace").strip().lower() == header.lower():
            if rest:
                yield Block(block.path, 2, rest)
        else:
            yield block


def quoted(blocks: Iterator[Block], names: list[str], rejects: Rejects) -> Iterator[dict[str, str]]:
    """Rows of comma-separated values that may be quoted, as dicts; a value holds no end of line."""
    for block in blocks:
        for number, line in lines(block):
            text = rejects.decoded(block.path, number, line)
            if text is None:
                continue
            try:
                [values] = csv.reader(io.StringIO(text), strict=True)
            except (csv.Error, ValueError) as why:
                rejects.add(block.path, number, line, str(why))
                continue
            if len(values) != len(names):
                rejects.add(block.path, number, line, f"{len(values)} values instead of {len(names)}")
                continue
            yield dict(zip(names, values, strict=True))


def _row(block: Block, number: int, line: bytes, kinds: Mapping[str, pa.DataType], separator: str, rejects: Rejects):
    text = rejects.decoded(block.path, number, line)
    if text is None:
        return None
    values = text.split(separator)
    if len(values) != len(kinds):
        rejects.add(block.path, number, line, f"{len(values)} values instead of {len(kinds)}")
        return None
    row: dict[str, Any] = {}
    for value, (name, kind) in zip(values, kinds.items(), strict=True):
        try:
            if not value:
                raise ValueError
            row[name] = value if kind == pa.string() else CASTS[kind](value)
        except (ValueError, OverflowError):
            rejects.add(block.path, number, line, f"{name} is {value[:40]!r}")
            return None
    return row
