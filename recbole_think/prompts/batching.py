"""Sequences to tensors: padded batches under a token budget.

B sequences, T tokens of the longest.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_think.prompts.tasks import Example

IGNORED = -100


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices so that no padded batch exceeds ``budget`` tokens (a single longer sequence goes alone).

    Sequences of like length go together; the caller's order decides between equals, so shuffled input gives
    shuffled batches.
    """
    order = np.argsort(np.asarray(lengths), kind="stable")
    batches: list[list[int]] = []
    current: list[int] = []
    for index in order:
        if current and lengths[index] * (len(current) + 1) > budget:
            batches.append(current)
            current = []
        current.append(int(index))
    return [*batches, current] if current else batches


def training_batch(examples: Sequence[Example], pad: int) -> dict[str, Tensor]:
    """Right-pad examples.

    Returns:
        input_ids, attention_mask, labels, each int64 [B, T]; labels are ``IGNORED`` where nothing is supervised.
    """
    longest = max(len(example.input_ids) for example in examples)
    shape = (len(examples), longest)
    ids, mask, labels = np.full(shape, pad), np.zeros(shape, dtype=np.int64), np.full(shape, IGNORED)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        ids[row, :length], mask[row, :length] = example.input_ids, 1
        labels[row, :length] = np.where(example.supervised, example.input_ids, IGNORED)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.from_numpy(labels),
    }


def prompt_batch(prompts: Sequence[np.ndarray], pad: int) -> tuple[Tensor, Tensor]:
    """Left-pad prompts: input_ids and attention_mask, each int64 [B, T]."""
    longest = max(len(prompt) for prompt in prompts)
    ids, mask = np.full((len(prompts), longest), pad), np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
