"""What is asked of shared storage: a folder, filled elsewhere, is put in place whole, and by the first who tries.

rename(2) does it: it never shows half a folder, and it fails where a folder that is not empty is there already. On NFS
the server does it, so one of two clients wins. Knows nothing of shards.
"""

import hashlib
import shutil
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_think.artifacts import disk_guard, read_json
from recbole_think.errors import InputError

FACTS = "facts.json"


def put_first(place: Path, fill: Callable[[Path], object], draft: Path | None = None) -> bool:
    """Fill a folder and put it at ``place``, unless one is there: whether it is this one that is there now.

    Args:
        place: where it goes.
        fill: writes at least one file into the folder it is given.
        draft: where it is filled, on the same storage; beside ``place`` if left out.

    Raises:
        InputError: the storage is full, or cannot be written.
    """
    draft = draft or place.with_name(f".{uuid.uuid4().hex}")
    try:
        with disk_guard(place):
            draft.mkdir(parents=True)
            fill(draft)
            return _renamed(draft, place)
    except OSError as why:
        raise InputError(f"{place} cannot be written: {why}") from why
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _renamed(draft: Path, place: Path) -> bool:
    ours = draft.stat().st_ino
    try:
        draft.rename(place)
    except OSError:
        if not place.is_dir():
            raise
        return place.stat().st_ino == ours  # NFS may do it, lose the answer, and fail when it is asked again
    return True


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by name."""
    return {path.name: digest_of(path) for path in sorted(folder.iterdir())}


def require_digests(folder: Path, wanted: dict[str, str], remedy: str) -> None:
    """Refuse files that are not the ones that were written.

    Args:
        folder: which holds them.
        wanted: their digests by name.
        remedy: what to do.

    Raises:
        InputError: one is missing, cannot be read, or has changed.
    """
    for name, digest in wanted.items():
        try:
            found = digest_of(folder / name)
        except OSError as why:
            raise InputError(f"{folder / name} cannot be read ({why}); {remedy}") from why
        if found != digest:
            raise InputError(f"{folder / name} is not what was written there; {remedy}")


def read_facts(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON file that must be there.

    Raises:
        InputError: it is not, or it is damaged.
    """
    try:
        return read_json(path)
    except (OSError, InputError) as why:
        raise InputError(f"{path} cannot be read ({why}); {remedy}") from why


def host() -> str:
    """Name of this machine."""
    return socket.gethostname()
