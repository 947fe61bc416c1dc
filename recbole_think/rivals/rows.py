"""Training on single events, for TIGER: (codes of a history, codes of the item after it).

Every training event but each user's first is a row; rows of like length stand together.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer

from recbole_think.corpus.histories import Histories
from recbole_think.prompts.batching import prompt_batch
from recbole_think.rivals.tiger import PAD, PROMPT, TARGET, TIGER
from recbole_think.rivals.windows import alike
from recbole_think.shards import ranked_ahead


class RowTrainer(Trainer):
    """RecBole's trainer over (history, next item) of every training event; ``train_batch_size`` counts them."""

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(epoch_idx)
        return super()._train_epoch(self.batches(epoch_idx), epoch_idx, loss_func, show_progress)

    def _valid_epoch(self, valid_data, show_progress=False):
        with ranked_ahead(self.model, valid_data, show_progress=show_progress):  # those of like length together
            return super()._valid_epoch(valid_data)

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, by its number alone, so that a fit that goes on goes on as it would have."""
        if not self.model.decode.decay:
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def batches(self, epoch: int) -> "RowBatches":
        """Every training event once, shuffled for this epoch."""
        return RowBatches(self.model, self.config["train_batch_size"], [self.config["seed"], epoch])


class RowBatches:
    """Every training event with a history before it, once, in shuffled batches of like length."""

    def __init__(self, model: TIGER, size: int, seed: list[int]):
        self.ranker, self.histories = model.ranker, model.histories
        dice = np.random.default_rng(seed)
        self.users, self.places = places(model.histories)
        order = dice.permutation(len(self.users))
        lengths = np.minimum(self.places[order], model.ranker.max_history)
        self.groups = [order[rows] for rows in alike(lengths, np.ones_like(lengths), size, dice)]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Interaction]:
        for rows in self.groups:
            yield self.batch(rows)

    def batch(self, rows: np.ndarray) -> Interaction:
        """Prompts and targets of some events."""
        whole = [self.histories.of(user) for user in self.users[rows].tolist()]
        past = [history[:place] for history, place in zip(whole, self.places[rows].tolist(), strict=True)]
        prompts = self.ranker.prompts(past, self.users[rows])
        nexts = [int(history[place]) for history, place in zip(whole, self.places[rows].tolist(), strict=True)]
        targets = torch.from_numpy(self.ranker.item_tokens[np.array(nexts) - 1])
        return Interaction({PROMPT: prompt_batch(prompts, PAD)[0], TARGET: targets})


def places(histories: Histories) -> tuple[np.ndarray, np.ndarray]:
    """User, and number of events before it, of every event but each user's first: int64 [m] each."""
    lengths = np.diff(histories.starts)
    users = np.repeat(np.arange(histories.n_users), np.maximum(lengths - 1, 0))
    firsts = np.repeat(np.cumsum(np.maximum(lengths - 1, 0)) - np.maximum(lengths - 1, 0), np.maximum(lengths - 1, 0))
    return users, np.arange(len(users)) - firsts + 1
