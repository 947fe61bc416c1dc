"""Ranked lists at the edge to RecBole: the score table its evaluator reads, and the count of illegal answers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

NOT_RANKED = float("-inf")


def full_sort_scores(ranked: Sequence[Sequence[int]], n_items: int) -> Tensor:
    """Turn ranked lists into the score table RecBole's evaluator reads.

    ``ranked[b]`` holds RecBole item ids, best first. Items the model did not name stay at ``NOT_RANKED``;
    id 0 is RecBole's padding and may not appear.

    Returns:
        float32 ``[B, n_items]``, on the CPU.
    """
    scores = torch.full((len(ranked), n_items), NOT_RANKED)
    for row, items in enumerate(ranked):
        if len(set(items)) != len(items) or min(items, default=1) < 1:
            raise ValueError(f"row {row}: expected distinct item ids >= 1, got {list(items)[:10]}")
        scores[row, list(items)] = torch.arange(len(items), 0, -1, dtype=torch.float32)
    return scores


class AnswerCount:
    """Counts answers, and those of them that name no item; the trie makes these 0, the count proves it."""

    answers = 0, 0  # illegal, all

    def count(self, illegal: int, answers: int) -> None:
        """Add to the answers that were given, and to those of them that name no item."""
        self.answers = self.answers[0] + illegal, self.answers[1] + answers

    def take_illegal_rate(self) -> float:
        """Share of answers that name no item, since last asked."""
        illegal, answers = self.answers
        self.answers = 0, 0
        return illegal / max(answers, 1)


def illegal_answers(codes: Tensor, items: Tensor, table: np.ndarray) -> tuple[int, int]:
    """Count the answers whose codes are not those of the item they were taken for, from the code table itself.

    Args:
        codes: int64 [B, K, L] as generated.
        items: int64 [B, K] rows of the catalogue, -1 = no answer.
        table: int64 [n, L].

    Returns:
        (illegal, all answers).
    """
    given = items >= 0
    wrong = (torch.from_numpy(table)[items.clamp(min=0)] != codes).any(-1) & given
    return int(wrong.sum()), int(given.sum())
