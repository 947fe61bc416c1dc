"""What finished runs would have named after every training event's history: the teachers of distillation.

Teachers are run folders of models that score all items (their weights, not their lists); of several the probabilities
are averaged. They have seen the training events themselves, so at those they are surer than they should be: a
temperature above 1 takes that back. What is made of it is in ``stages/lessons.py``; what
they reach themselves, in ``headroom.py``. B histories, E events, n items, K items kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from tqdm import tqdm

from recbole_think.artifacts import read_json
from recbole_think.corpus.histories import Histories
from recbole_think.errors import InputError
from recbole_think.stages.options import DistillationOptions

TOGETHER = 1024  # histories scored at once


def require_teachers(folders: Sequence[str]) -> None:
    """Refuse folders that hold no finished run.

    Raises:
        InputError: one does not.
    """
    for folder in folders:
        if not (Path(folder) / "metrics.json").is_file():
            raise InputError(f"distillation.teachers: {folder} is not the folder of a finished run")


def facts(folders: Sequence[str]) -> list[str]:
    """What decides what teachers say, wherever their folders are: digests of their weights."""
    return [read_json(Path(folder) / "evaluation" / "test.json")["made_from"]["weights"] for folder in folders]


class Teachers:
    """Finished runs that are heard together."""

    def __init__(self, options: DistillationOptions, fingerprint: str):
        """Load them.

        Args:
            options: their folders, the share and temperature of each, and whether they may name what a history holds.
            fingerprint: of the pupil's split.

        Raises:
            InputError: a run on other data, or of a model that needs more than a history.
        """
        from recbole_think.loading import load
        from recbole_think.scoring import is_generative

        self.repeats = options.repeats
        self.runs = [load(folder) for folder in options.teachers]
        self.names = [Path(folder).name for folder in options.teachers]
        for folder, run in zip(options.teachers, self.runs, strict=True):
            if run.metrics["data_fingerprint"] != fingerprint:
                raise InputError(f"distillation.teachers: {folder} was trained on another split than this run")
            if run.model.type != ModelType.SEQUENTIAL or is_generative(run.model):
                name = type(run.model).__name__
                raise InputError(f"distillation.teachers: {name} ({folder}) does not score all items by a history")
        self.shares = np.array(options.shares or (1.0,) * len(self.runs), dtype=np.float32)
        self.temperatures = options.temperatures or (1.0,) * len(self.runs)

    @property
    def n(self) -> int:
        """Items, without padding."""
        return self.runs[0].model.n_items - 1

    def each(self, past: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What each gives every item after some histories, padding 0: float32 [B, n + 1], summing to 1."""
        heard = zip(self.runs, self.temperatures, strict=True)
        return [_probabilities(run, past, temperature, self.repeats) for run, temperature in heard]

    def together(self, each: Sequence[np.ndarray]) -> np.ndarray:
        """Their weighted mean."""
        return np.average(each, axis=0, weights=self.shares)


@torch.no_grad()
def taught_by(
    teachers: Teachers, histories: Histories, wanted: np.ndarray, count: int, show: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Ask teachers about events.

    Args:
        teachers: who is asked.
        histories: of the pupil; a last item 0 stands for what nobody knows.
        wanted: int64 [E], places of the events.
        count: K.
        show: draw a bar.

    Returns:
        Items named after the history before each of them, most probable first, RecBole ids, int64 [E, K], and their
        probabilities, float32 [E, K]; 0 of nothing for a user's first event.
    """
    count = min(count, teachers.n)
    firsts = np.repeat(histories.starts[:-1], np.diff(histories.starts))  # where the history of each event begins
    asked = np.flatnonzero(firsts[wanted] < wanted)
    items = np.zeros((len(wanted), count), dtype=np.int64)
    shares = np.zeros((len(wanted), count), dtype=np.float32)
    with tqdm(total=len(asked), desc="asking teachers", unit="event", disable=not show) as bar:
        for begin in range(0, len(asked), TOGETHER):
            some = asked[begin : begin + TOGETHER]
            rows = wanted[some]
            said = teachers.together(teachers.each([histories.items[firsts[row] : row] for row in rows.tolist()]))
            best = np.argpartition(-said, count - 1, axis=1)[:, :count]
            ranked = np.take_along_axis(best, np.argsort(-np.take_along_axis(said, best, 1), 1, kind="stable"), 1)
            items[some], shares[some] = ranked, np.take_along_axis(said, ranked, 1)
            bar.update(len(rows))
    return items, shares


def _probabilities(run: Any, past: Sequence[np.ndarray], temperature: float, repeats: bool) -> np.ndarray:
    """Of every item after each history, padding 0: float32 [B, n + 1]."""
    model = run.model
    longest = model.max_seq_length
    rows = torch.zeros(len(past), longest, dtype=torch.int64)
    for row, history in zip(rows, past, strict=True):
        latest = torch.from_numpy(history[-longest:].copy())
        row[: len(latest)] = latest
    lengths = torch.tensor([min(len(history), longest) for history in past])
    try:
        asked = Interaction({model.ITEM_SEQ: rows, model.ITEM_SEQ_LEN: lengths}).to(model.device)
        scores = model.full_sort_predict(asked)
    except (KeyError, NotImplementedError) as why:  # it reads more than items, or scores them one by one
        name = type(model).__name__
        raise InputError(f"distillation.teachers: {name} does not score all items by a history: {why}") from why
    scores = scores.view(len(past), -1).float().cpu()
    scores[:, 0] = -torch.inf
    if not repeats:
        for row, history in zip(scores, past, strict=True):
            row[torch.from_numpy(history)] = -torch.inf
    return (scores / temperature).softmax(1).numpy()
