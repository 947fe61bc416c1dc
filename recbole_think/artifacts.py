"""Files that carry their own facts: JSON written whole or not at all, tensors as safetensors, mismatches refused.

Knows nothing of stages or models. A write that cannot finish (full disk) leaves no half file behind.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import randbits
from typing import Any

from recbole_think.errors import InputError
from recbole_think.processes import first_alone

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TORCH_WORDS = ("unexpected pos", "file write failed", "iostream error")  # what torch.save says of a full disk
PACKAGES = ("recbole", "torch", "transformers", "peft", "trl", "numpy", "pandas", "scikit-learn")


@contextmanager
def disk_guard(path: Path):
    """Turn a full disk into an InputError that names the path and the way on."""
    try:
        yield
    except InputError:  # said already, by a guard within this one
        raise
    except Exception as why:  # each library has its own word for a full disk; everything else goes on as it is
        if not _disk_is_full(why):
            raise
        raise InputError(
            f"no room to write {path} ({why}); free some space, or choose another --run_folder or --cache_dir, "
            f"and run the same command again: finished stages are kept"
        ) from why


def _disk_is_full(why: Exception) -> bool:
    """Tell a full disk as Python, safetensors (a plain Exception), torch and NumPy report it."""
    if isinstance(why, OSError) and why.errno is not None:
        return why.errno in DISK_FULL
    text = str(why)
    return (
        any(f"(os error {number})" in text for number in DISK_FULL)
        or (isinstance(why, RuntimeError) and any(words in text for words in TORCH_WORDS))
        or (isinstance(why, OSError) and "requested and" in text and "written" in text)
    )


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a neighbour file, then move it into place; on any failure nothing is left.

    Of several processes the first one writes, and all go on once it is there.

    Raises:
        InputError: the disk is full.
    """
    with first_alone() as mine:
        if mine:
            _write_whole(path, write)


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{randbits(62)}")  # process ids are the same on many machines
    try:
        with disk_guard(path):
            write(draft)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def fresh_folder(place: Path, replace: bool, ours: str) -> Iterator[Path]:
    """A folder to fill beside ``place``, put there in the end; on any failure nothing is left.

    Args:
        place: where it goes.
        replace: one that is there already is taken away then,
        ours: if it holds a file of this name.

    Raises:
        InputError: there is one, and it is not to be replaced; or it cannot be written.
    """
    place = place.expanduser().resolve()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        if not replace:
            raise InputError(f"{place} is there already; --replace makes it anew, or choose another name")
        if not (place / ours).is_file():
            raise InputError(f"{place} is not replaced: it has no {ours}, so it was not made by this command")
    draft, old = (place.with_name(f".{place.name}.{randbits(62)}.{what}") for what in ("new", "old"))
    try:
        with disk_guard(place):
            draft.mkdir(parents=True)
            yield draft
            if place.exists():
                place.rename(old)
            draft.rename(place)
    except OSError as why:
        raise InputError(f"{place} cannot be written: {why}") from why
    finally:
        if old.exists() and not place.exists():  # the new one did not come
            old.rename(place)
        for path in (draft, old):
            shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""

    def fill(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    write_whole(path, fill)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file we wrote.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as why:
        raise InputError(f"{path} is not readable JSON ({why}); delete it and run again") from why


def save_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, whole or not at all. Shared storage is written once per name."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_whole(path, lambda draft: save_file(plain, draft))


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a safetensors file onto the CPU.

    Raises:
        InputError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as why:
        raise InputError(f"{path} is damaged ({why}); delete it and run again") from why


def digest(content: Any, length: int = 8) -> str:
    """Short stable digest of anything JSON can hold."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    """Refuse an artifact made from something else, naming the first fact that differs.

    Args:
        found: facts read back from JSON.
        wanted: facts of this run, compared as JSON would give them back (tuples as lists).
        where: the artifact.

    Raises:
        InputError: a fact differs.
    """
    for key, value in differing(found, wanted).items():
        raise InputError(
            f"{where} was made with {key}={found.get(key)!r}, this run has {key}={value!r}; "
            f"use another --run_folder, or --restart to begin again there"
        )


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Wanted facts, as JSON gives them back, that those found do not have alike; arguments as in ``require_same``."""
    return {key: value for key, value in json.loads(json.dumps(wanted, default=str)).items() if found.get(key) != value}


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on."""
    found = {}
    for name in ("recbole_think", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
