"""Batches planned beforehand: every optimizer step's, in order.

So schedules count steps, and an interrupted run goes on with the very batch it missed.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recbole_think import processes
from recbole_think.prompts.batching import IGNORED, Row, packed_batch


class BatchPlan(Dataset):
    """Batches of packed rows in the order they are trained on: item i is the i-th optimizer step's batch.

    Of several processes each is given its share of the rows. Gradients are averaged over processes, so that a share's
    sum of losses divided by the mean share's number of targets gives the gradient of the whole batch.
    """

    def __init__(self, batches: list[list[Row]], pad: int):
        self.batches, self.pad = batches, pad

    @property
    def tokens(self) -> int:
        """Real tokens of all batches."""
        return sum(row.tokens for batch in self.batches for row in batch)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rows, of = self.batches[index], processes.count()
        if of == 1:
            return packed_batch(rows, self.pad)
        share = rows[processes.number() :: of]
        batch = packed_batch(share or rows[:1], self.pad)
        if not share:  # fewer rows than processes: this one reads, and learns nothing from it
            batch["labels"].fill_(IGNORED)
        return {**batch, "mean_over": torch.tensor(sum(row.targets for row in rows) / of)}


def into_batches(rows: list[Row], budget: int) -> list[list[Row]]:
    """Cut rows into batches, in order, of at most ``budget`` padded tokens (at least one row each)."""
    batches: list[list[Row]] = [[]]
    widest = 0
    for row in rows:
        widest = max(widest, row.tokens)
        if batches[-1] and widest * (len(batches[-1]) + 1) > budget:
            batches.append([])
            widest = row.tokens
        batches[-1].append(row)
    return batches if batches[0] else []


def up_to(batches: list[list[Row]], tokens: int) -> list[list[Row]]:
    """The first batches, as many as hold ``tokens`` real tokens in all (at least one); all of them for 0."""
    if not tokens:
        return batches
    read = np.cumsum([sum(row.tokens for row in batch) for batch in batches])
    return batches[: max(1, int((read <= tokens).sum()))]
