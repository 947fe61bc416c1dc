"""Files over the network: a fetch that was cut off goes on, and is checked against the publisher's checksum."""

import hashlib
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from recbole_think.errors import InputError

BLOCK = 1 << 20  # bytes read at once
TRIES = 4  # in a row that bring nothing new
PAUSE_S = 2.0  # after the first of them, then twice as long each
WAIT_S = 60.0  # for an answer
PARTIAL = 206  # the server goes on where it was asked to
BEYOND = 416  # there is nothing where it was asked to go on
GONE = range(400, 500)  # asking again would not help


class Remote(NamedTuple):
    """A file of a publisher."""

    url: str
    md5: str = ""  # address of its checksum, where one is published
    instead: tuple[tuple[str, ...], ...] = ()  # what makes it unnecessary: one file of each, such as it unpacked

    @property
    def name(self) -> str:
        """What it is called."""
        return self.url.rpartition("/")[2]

    def is_needed(self, folder: Path) -> bool:
        """Whether a folder lacks any of what would make it unnecessary."""
        return not self.instead or any(not any((folder / name).is_file() for name in names) for names in self.instead)


def fetch(remote: Remote, folder: Path, home: str, show: bool = True) -> Path:
    """Bring a file into a folder; one that is there already stays.

    What has come stands in ``<name>.part`` until all of it has; the same call goes on from there.

    Args:
        remote: the file.
        folder: where it goes.
        home: page of the publisher, for whom the address is out of date.
        show: a progress bar with the time left.

    Raises:
        InputError: it cannot be reached, ends too early, or is not what its checksum says.
    """
    place = folder / remote.name
    if place.is_file():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    part, failures = place.with_name(place.name + ".part"), 0
    while True:
        before = _size(part)
        try:
            _go_on(remote.url, part, show)
            break
        except (OSError, HTTPException) as why:
            failures = 0 if _size(part) > before else failures + 1
            if failures == TRIES or getattr(why, "code", 0) in GONE:
                raise InputError(
                    f"{remote.url} cannot be fetched: {why}; if this machine has no network, or the address is out of "
                    f"date, put {remote.name} into {folder} by hand, from {home}"
                ) from why
            time.sleep(PAUSE_S * 2**failures)
    if remote.md5:
        _require_checksum(remote, part)
    part.replace(place)
    return place


def _go_on(url: str, part: Path, show: bool) -> None:
    """Bring what is missing of a file."""
    have = _size(part)
    asked = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(asked, timeout=WAIT_S) as answer:
            goes_on = answer.status == PARTIAL
            _write(answer, part, have if goes_on else 0, show)
    except urllib.error.HTTPError as why:
        if why.code != BEYOND or not have:
            raise
        if why.headers.get("Content-Range", "") != f"bytes */{have}":  # else all of it was here already
            part.unlink()
            raise ConnectionError("what had come of it is longer than the file, and was thrown away") from why


def _write(answer: HTTPResponse, part: Path, have: int, show: bool) -> None:
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else None
    with (
        part.open("ab" if have else "wb") as file,
        tqdm(
            total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=not show, file=sys.stderr
        ) as bar,
    ):
        while read := answer.read(BLOCK):
            file.write(read)
            bar.update(len(read))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"it ended after {_size(part):,} of {total:,} bytes")


def _require_checksum(remote: Remote, part: Path) -> None:
    try:
        with urllib.request.urlopen(remote.md5, timeout=WAIT_S) as answer:
            said = answer.read(1 << 16).decode("utf-8", "replace")
    except (OSError, HTTPException) as why:
        raise InputError(f"{remote.md5} cannot be fetched: {why}; the file itself has come ({part})") from why
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found not in said.lower():
        part.unlink()
        raise InputError(f"{remote.url} is damaged: its checksum is {found}, {remote.md5} says {said.strip()[:80]!r}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
