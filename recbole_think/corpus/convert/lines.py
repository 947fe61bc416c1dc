"""A publisher's text file as blocks of whole lines: plain, ``.gz``, or a member of a ``.zip``, with progress.

Never holds more than a block. Knows nothing of what the lines say.
"""

import gzip
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from tqdm import tqdm

from recbole_think.errors import InputError

BLOCK = 1 << 23  # bytes read at once
LONGEST = 1 << 26  # bytes of a line; a file without an end of line is not one of lines
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)
BOM = b"\xef\xbb\xbf"


class Block(NamedTuple):
    """Whole lines."""

    path: str  # of the file, and its member
    first: int  # number of the first line, from 1
    text: bytes


def blocks(path: Path, member: str = "", show: bool = True) -> Iterator[Block]:
    """Read a file block by block.

    Args:
        path: the file.
        member: name within it, if it is a ``.zip``.
        show: a progress bar with the time left, on standard error.

    Raises:
        InputError: it is damaged, was cut off, or has no lines.
    """
    where, first, rest, seen = f"{path}{':' if member else ''}{member}", 1, b"", 0
    with _opened(path, member) as (file, total, at), _bar(where, total, show) as bar:
        while True:
            try:
                read = file.read(BLOCK)
            except DAMAGED as why:
                raise InputError(
                    f"{where} is damaged or was cut off: {why}, after {seen:,} bytes of text; fetch it again"
                ) from why
            bar.update(at() - bar.n)
            if not read:
                break
            read = read.removeprefix(BOM) if not seen else read
            seen += len(read)
            cut = read.rfind(b"\n") + 1
            whole, rest = (rest + read[:cut], read[cut:]) if cut else (b"", rest + read)
            if len(rest) > LONGEST:
                raise InputError(
                    f"{where}: line {first + whole.count(10)} has more than {LONGEST:,} bytes; no text file"
                )
            if whole:
                yield Block(where, first, whole)
                first += whole.count(b"\n")
    if rest:
        yield Block(where, first, rest)


def lines(block: Block) -> Iterator[tuple[int, bytes]]:
    """Number and text of every line of a block that is not empty."""
    for number, line in enumerate(block.text.split(b"\n"), start=block.first):
        if line.strip():
            yield number, line.rstrip(b"\r")


@contextmanager
def _opened(path: Path, member: str) -> Iterator[tuple[BinaryIO | gzip.GzipFile | IO[bytes], int, Callable[[], int]]]:
    """The text, how large what is read for it is, and how far that was read."""
    try:
        with path.open("rb") as raw:
            if member:
                with zipfile.ZipFile(raw) as archive, archive.open(member) as inner:
                    yield inner, archive.getinfo(member).file_size, inner.tell
            elif path.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as inner:
                    yield inner, path.stat().st_size, raw.tell
            else:
                yield raw, path.stat().st_size, raw.tell
    except zipfile.BadZipFile as why:
        raise InputError(f"{path} is damaged or was cut off: {why}; fetch it again") from why
    except (OSError, KeyError) as why:
        raise InputError(f"{path} cannot be read: {why}") from why


def _bar(where: str, total: int, show: bool) -> tqdm:
    return tqdm(total=total, unit="B", unit_scale=True, desc=Path(where).name, disable=not show, file=sys.stderr)
