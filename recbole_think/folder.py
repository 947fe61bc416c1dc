"""The run folder: where one experiment keeps everything, and the only place it writes besides the cache.

RecBole writes ``log_tensorboard/`` and its logs into the working directory, so the run works inside its folder.
Knows nothing of models.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from recbole_think import processes
from recbole_think.artifacts import digest, disk_guard, read_json, write_json, write_text
from recbole_think.errors import InputError

# what may differ between two starts of the same experiment
NOT_IDENTITY = {
    "run_folder",
    "cache_dir",
    "show_progress",
    "gpu_id",
    "device",
    "state",
    "config_files",
    "checkpoint_dir",
    "stages_from",
    "eval_processes",
    "sharding",
    "engine",
}
# what may differ too, but stands in every configuration that was ever kept: it counts as what RecBole says of it
ALIKE = {"log_wandb": False, "wandb_project": "recbole"}
# what blocks have learnt to hold since runs were kept: left out while it says what was so before
UNSAID = {("decode", "engine"): "transformers"}
# files that cost time to make: finished stages, checkpoints, whole runs
WORTH_KEEPING = (
    "facts.json", "metrics.json", "evaluation/*", "*/facts.json", "checkpoints/*", "*/checkpoints/*",
    "*/best.safetensors",
)  # fmt: skip
DRAFT = re.compile(r"\..+\.\d+")  # what write_whole calls a file until it is whole
EMPTIED = ".emptied"  # where --restart moves the old run before deleting it
ANSI = re.compile(r"\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")
log = logging.getLogger(__name__)


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that make an experiment what it is."""
    kept = {key: ALIKE.get(key, settings[key]) for key in sorted(settings) if key not in NOT_IDENTITY}
    plain = {key: _plain(value) for key, value in kept.items()}
    for (block, key), before in UNSAID.items():
        if isinstance(plain.get(block), dict) and plain[block].get(key) == before:
            del plain[block][key]
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def choose(settings: Mapping[str, Any]) -> Path:
    """Return the folder asked for, or ``runs/<dataset>/<model>-<digest>``: the same command finds its own folder."""
    if settings.get("run_folder"):
        return Path(settings["run_folder"]).expanduser().resolve()
    return Path("runs").resolve() / settings["dataset"] / f"{settings['model']}-{digest(identity(settings))}"


@contextlib.contextmanager
def opened(folder: Path, settings: Mapping[str, Any], restart: bool = False) -> Iterator[Path]:
    """Work inside ``folder``: locked against a second process, logged to ``run.log``, cwd restored afterwards.

    Of several processes of one job the first one holds the lock for all.

    Raises:
        InputError: another job is at work there, or the folder belongs to another configuration.
    """
    if processes.number() and processes.count() > 1:  # the first process has the lock, and writes the log
        processes.meet()
        with contextlib.chdir(folder):
            yield folder
        return
    with _held(folder, settings, restart):
        processes.meet()
        yield folder


@contextlib.contextmanager
def _held(folder: Path, settings: Mapping[str, Any], restart: bool) -> Iterator[None]:
    fresh = not folder.exists()
    try:
        with disk_guard(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as why:
        raise InputError(f"--run_folder={folder} cannot be a folder: {why}; choose another") from why
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as why:
            raise InputError(
                f"another process is working in {folder}; wait for it, or use another --run_folder"
            ) from why
        _sweep(folder)
        if restart:
            _empty(folder)
        with processes.by_itself():
            _claim(folder, identity(settings))
        try:
            with contextlib.chdir(folder), _logging_to(folder / "run.log"):
                yield
        except InputError:
            if fresh and not any(any(folder.glob(pattern)) for pattern in WORTH_KEEPING):
                shutil.rmtree(folder)  # the input was wrong before anything was worth keeping
            raise


def _sweep(folder: Path) -> None:
    """Delete what a killed process was in the middle of; the lock says that nobody is in the middle of anything now."""
    ours = (folder / "config.json").is_file()
    if ours or (folder / EMPTIED / "config.json").is_file():
        shutil.rmtree(folder / EMPTIED, ignore_errors=True)
    for path in folder.rglob(".*") if ours else folder.glob(".config.json.*"):  # elsewhere, what we begin with alone
        if DRAFT.fullmatch(path.name) and path.is_file():
            path.unlink()


def _empty(folder: Path) -> None:
    """Move everything out of the way, the result first and the configuration last, then delete it.

    A kill in between leaves whole files of a run that is not finished, never half a one that looks finished.
    """
    inside = {path.name for path in folder.iterdir()} - {".lock", EMPTIED}
    if inside and "config.json" not in inside:
        raise InputError(f"--restart: {folder} is not a run folder (no config.json); refusing to empty it")
    (folder / EMPTIED).mkdir(exist_ok=True)
    for name in sorted(inside, key=lambda name: (name == "config.json") - (name == "metrics.json")):
        (folder / name).rename(folder / EMPTIED / name)
    shutil.rmtree(folder / EMPTIED)


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    """Write the configuration into a fresh folder, or refuse one of another configuration by the key that differs."""
    path = folder / "config.json"
    if path.is_file():
        found = filled(read_json(path), wanted)
        for key in sorted({*found, *wanted}):
            if found.get(key) != wanted.get(key):
                raise InputError(
                    f"{folder} holds a run with {key}={found.get(key)!r}, this command has {key}={wanted.get(key)!r}; "
                    f"use another --run_folder, or --restart to empty this one first"
                )
    else:
        write_json(path, wanted)
    if not (folder / "config.yaml").is_file():  # asked for itself: a kill may have come between the two
        write_text(folder / "config.yaml", yaml.safe_dump(wanted, sort_keys=True, allow_unicode=True))


def filled(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as a folder has it; what blocks have learnt to hold since then was off where it is off now."""
    return {key: _block_filled(value, wanted.get(key)) for key, value in kept.items()}


def _block_filled(found: Any, wanted: Any) -> Any:
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return found
    return {**{key: value for key, value in wanted.items() if not value}, **found}


class Plain(logging.Formatter):
    """Log lines without RecBole's colours."""

    def format(self, record: logging.LogRecord) -> str:
        """Format as usual, then drop escape sequences."""
        return ANSI.sub("", super().format(record))


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send the root logger (RecBole uses it) to a file without colours, for as long as the run lasts."""
    root = logging.getLogger()
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(Plain("%(asctime)s %(levelname)s %(name)s  %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


def cache_path(configured: str | None) -> Path:
    """Return where the cache is, or would be."""
    chosen = configured or os.environ.get("RECBOLE_THINK_CACHE") or "~/.cache/recbole_think"
    return Path(chosen).expanduser().resolve()


def cache_dir(configured: str | None) -> Path:
    """Return the folder for what many runs share: converted backbones, text vectors, measurements."""
    path = cache_path(configured)
    path.mkdir(parents=True, exist_ok=True)
    return path
