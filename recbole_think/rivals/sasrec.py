"""SASRec trained on every position at once (Kang & McAuley 2018, as its authors train it; cross-entropy as in RecBole).

RecBole makes one padded row of every prefix, and computes a history of fifty items fifty times. Here a row is a window
of a training history, and each of its positions predicts the item after it under the causal mask that RecBole's SASRec
has anyway. Modules, parameters and scores are RecBole's own: a state of the one loads into the other.

B windows, T items of the longest (inputs), d hidden size, N predicted items of a batch.
"""

from collections.abc import Iterator

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from torch.nn import functional

from recbole_think.corpus.histories import training_histories, windows


class SASRecAll(SASRec):
    """RecBole's SASRec with a loss at every position."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.histories = training_histories(dataset)

    def gather_indexes(self, output, gather_index):
        """Pick what predicts: all positions [B, T, d] in training, the last one's [B, d] otherwise."""
        return output if self.training else super().gather_indexes(output, gather_index)

    def calculate_loss(self, interaction):
        """Mean cross-entropy over all predicted items of a batch of windows; see ``WindowTrainer``."""
        rows = interaction[self.ITEM_SEQ]  # [B, T + 1], zeros behind the end
        inputs, targets = rows[:, :-1], rows[:, 1:]
        hidden = self.forward(inputs, torch.ones_like(inputs[:, 0]))  # [B, T, d]
        real = targets > 0
        logits = hidden[real] @ self.item_embedding.weight.T  # [N, n_items]
        return functional.cross_entropy(logits, targets[real])


class WindowTrainer(Trainer):
    """RecBole's trainer over windows of histories instead of prefixes; ``train_batch_size`` counts windows."""

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        return super()._train_epoch(self.batches(epoch_idx), epoch_idx, loss_func, show_progress)

    def batches(self, epoch: int) -> "WindowBatches":
        """Cut the training histories anew for an epoch."""
        return WindowBatches(self.model, self.config["train_batch_size"], [self.config["seed"], epoch])


class WindowBatches:
    """Every transition of the training histories once, in shuffled batches of windows of like length."""

    def __init__(self, model: SASRecAll, size: int, seed: list[int]):
        dice = np.random.default_rng(seed)
        found = list(windows(model.histories, model.max_seq_length + 1, dice))
        order = np.argsort([len(window) for window in found], kind="stable")  # equal ones stay shuffled
        groups = [order[begin : begin + size] for begin in range(0, len(order), size)]
        self.field = model.ITEM_SEQ
        self.rows = [_padded([found[index] for index in groups[place]]) for place in dice.permutation(len(groups))]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Interaction]:
        for rows in self.rows:
            yield Interaction({self.field: rows})


def _padded(some: list[np.ndarray]) -> torch.Tensor:
    """Windows as int64 [B, T + 1], zeros behind the end of shorter ones."""
    rows = np.zeros((len(some), max(len(window) for window in some)), dtype=np.int64)
    for row, window in zip(rows, some, strict=True):
        row[: len(window)] = window
    return torch.from_numpy(rows)
