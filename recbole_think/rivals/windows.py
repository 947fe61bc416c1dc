"""Training on windows of histories, for models that learn at every position of a row.

Takes a model with ``histories``, ``max_seq_length`` and ``events`` (field name -> int64 [n_events], values of the
histories' events, the items among them) and gives it batches of those fields, int64 [B, T + 1] each: windows with the
target of their last position, zeros behind the end of shorter ones.
Knows nothing of what the model does with them.
"""

from collections.abc import Iterator

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from torch import Tensor

from recbole_think.corpus.histories import spans


class WindowTrainer(Trainer):
    """RecBole's trainer over windows of histories instead of prefixes; ``train_batch_size`` counts windows."""

    def _build_optimizer(self, **kwargs):
        """RecBole's optimizer; an Adam makes its step in one kernel."""
        optimizer = super()._build_optimizer(**kwargs)
        for group in optimizer.param_groups:
            if "fused" in group:
                group["fused"] = True
        return optimizer

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        return super()._train_epoch(self.batches(epoch_idx), epoch_idx, loss_func, show_progress)

    def batches(self, epoch: int) -> "WindowBatches":
        """Cut the training histories anew for an epoch."""
        return WindowBatches(self.model, self.config["train_batch_size"], [self.config["seed"], epoch])


class WindowBatches:
    """Every transition of the training histories once, in shuffled batches of windows of like length."""

    def __init__(self, model, size: int, seed: list[int]):
        dice = np.random.default_rng(seed)
        found = list(spans(model.histories, model.max_seq_length + 1, dice))
        lengths = np.array([span.stop - span.start for span in found])
        self.batches = [
            {field: _padded([values[found[row]] for row in rows]) for field, values in model.events.items()}
            for rows in alike(lengths, lengths - 1, size, dice)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Interaction]:
        for batch in self.batches:
            yield Interaction(batch)


def alike(lengths: np.ndarray, predicted: np.ndarray, size: int, dice: np.random.Generator) -> list[np.ndarray]:
    """Group shuffled sequences of like length into batches, the batches in any order: their places.

    A step's loss is the mean of its predictions. So that every prediction of an epoch weighs the same, batches hold
    about as many predictions each: with as many sequences each, those of short histories weighed several times as much,
    which cost a tenth of the accuracy where most are short (docs/tuning-sasrec.md).

    Args:
        lengths: int64 [n], of the sequences.
        predicted: int64 [n], predictions each makes, at least 1.
        size: sequences of a batch, on average.
        dice: puts the batches in order.
    """
    order = np.argsort(lengths, kind="stable")  # equal ones stay shuffled
    upto = np.cumsum(predicted[order])
    batches = -(-len(order) // size)
    of_batch = (upto - 1) * batches // upto[-1]
    groups = np.split(order, np.flatnonzero(np.diff(of_batch)) + 1)
    return [groups[place] for place in dice.permutation(len(groups))]


def _padded(some: list[np.ndarray]) -> Tensor:
    """Windows as int64 [B, T + 1], zeros behind the end of shorter ones."""
    rows = np.zeros((len(some), max(len(window) for window in some)), dtype=np.int64)
    for row, window in zip(rows, some, strict=True):
        row[: len(window)] = window
    return torch.from_numpy(rows)
