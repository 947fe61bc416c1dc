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
        users, places = self.users[rows], self.places[rows]
        ends = self.histories.starts[users] + places
        targets = self.ranker.item_tokens[self.histories.items[ends] - 1]
        prompts = self._prompts(users, ends, np.minimum(places, self.ranker.max_history))
        return Interaction({PROMPT: torch.from_numpy(prompts), TARGET: torch.from_numpy(targets)})

    def _prompts(self, users: np.ndarray, ends: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Prompts of all events at once (row by row 512 took 8 ms, while a GPU waited): int64 [B, T], left-padded.

        The same as ``TigerRanker.prompts`` makes of each.

        Args:
            users: int64 [B].
            ends: where, among all events, the history before each event ends, int64 [B].
            lengths: of what is read of it, int64 [B].
        """
        ranker, longest = self.ranker, int(lengths.max())
        back = np.arange(-longest, 0)[None]
        real = back >= -lengths[:, None]
        items = self.histories.items[np.where(real, ends[:, None] + back, 0)]
        tokens = np.where(real[..., None], ranker.item_tokens[items - 1], PAD).reshape(len(users), -1)
        if not ranker.options.user_tokens:
            return tokens
        prompts = np.pad(tokens, ((0, 0), (1, 0)), constant_values=PAD)
        heads = ranker.first_user + users % ranker.options.user_tokens
        prompts[np.arange(len(users)), (longest - lengths) * ranker.trie.levels] = heads
        return prompts


def places(histories: Histories) -> tuple[np.ndarray, np.ndarray]:
    """User, and number of events before it, of every event but each user's first: int64 [m] each."""
    lengths = np.diff(histories.starts)
    users = np.repeat(np.arange(histories.n_users), np.maximum(lengths - 1, 0))
    firsts = np.repeat(np.cumsum(np.maximum(lengths - 1, 0)) - np.maximum(lengths - 1, 0), np.maximum(lengths - 1, 0))
    return users, np.arange(len(users)) - firsts + 1
