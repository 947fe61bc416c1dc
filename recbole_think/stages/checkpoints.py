"""Checkpoints an interrupted stage goes on from: whole or not counted, and never none once there was one.

Takes the folder transformers writes its checkpoints into. A checkpoint counts once its marker is there, which comes
after every file of it; the one before goes only then. Knows nothing of what is inside.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recbole_think.processes import first_alone, number
from recbole_think.stages.stage import CHECKPOINTS

COMPLETE = "complete"  # marks a checkpoint whose files are all there


def last_checkpoint(folder: Path) -> str | None:
    """Return the latest whole checkpoint of a stage folder, or None."""
    whole = [path.parent for path in (folder / CHECKPOINTS).glob(f"checkpoint-*/{COMPLETE}")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


@contextmanager
def whole_checkpoint(checkpoints: Path, step: int) -> Iterator[None]:
    """Let the block write ``checkpoint-<step>``, mark it whole, and only then delete every other one.

    A block that fails leaves nothing of this checkpoint, and the one before as it was.
    """
    folder = checkpoints / f"checkpoint-{step}"
    with first_alone() as mine:
        if mine:
            shutil.rmtree(folder, ignore_errors=True)  # what a killed process may have left of the same step
    try:
        yield
        with first_alone() as mine:  # others have written their random states by now
            if mine:
                _mark(folder)
    finally:
        if number() == 0 and not (folder / COMPLETE).exists():
            shutil.rmtree(folder, ignore_errors=True)
    with first_alone() as mine:
        if mine:
            _drop_others(checkpoints, folder)


def _mark(folder: Path) -> None:
    # on the disk before the marker is: a power cut may not leave a marker alone
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    (folder / COMPLETE).touch()


def _drop_others(checkpoints: Path, folder: Path) -> None:
    for other in checkpoints.glob("checkpoint-*"):
        if other != folder:
            (other / COMPLETE).unlink(missing_ok=True)  # first: half a checkpoint may not count
            shutil.rmtree(other, ignore_errors=True)


def spacing(steps: int, checkpoints: int, logging: int) -> int:
    """Steps between two checkpoints, a multiple of ``logging``.

    Transformers does not keep the losses since it last logged; a run that goes on from between two logs would report
    another loss than one that was never interrupted.
    """
    wanted = max(1, steps // (checkpoints + 1)) if checkpoints else steps
    return max(1, wanted // logging) * logging
