"""Sequences to tensors: padded batches under a token budget.

B sequences, T tokens of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Row:
    """Examples side by side in one row of a batch, not seeing one another; what all begin with is read once."""

    examples: Sequence[Example]
    shared: int = 0  # length of the common prefix, of which nothing is supervised

    @property
    def tokens(self) -> int:
        """Real tokens of the row."""
        return self.shared + sum(len(example.input_ids) - self.shared for example in self.examples)


def packed_rows(examples: Sequence[Example], shared: int, longest: int) -> list[Row]:
    """Put examples into rows, in the given order: a row holds the shared prefix once and whole bodies after it.

    Args:
        examples: all begin with the same ``shared`` tokens.
        shared: length of that prefix.
        longest: most tokens of a row; a longer example has a row of its own.
    """
    rows: list[list[Example]] = []
    used = longest + 1
    for example in examples:
        body = len(example.input_ids) - shared
        if used + body > longest:
            rows.append([])
            used = shared
        rows[-1].append(example)
        used += body
    return [Row(row, shared) for row in rows]


def packed_batch(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """Lay out rows of packed examples: a shared prefix is read once per row, and no example sees another.

    Args:
        rows: rows of any tasks, each with its own prefix.
        pad: token id to fill rows up with.

    Returns:
        input_ids, position_ids, labels int64 [B, T] (labels are ``IGNORED`` where nothing is supervised, and stand at
        the position that predicts them, since the token before an example's body is not always its predecessor),
        plain bool [B, T] (labels predicted out of the whole vocabulary), and attention_mask float32 [B, 1, T, T],
        numbers to add.
    """
    longest = max(row.tokens for row in rows)
    ids, positions = np.full((len(rows), longest), pad), np.zeros((len(rows), longest), dtype=np.int64)
    labels, part = np.full((len(rows), longest), IGNORED), np.full((len(rows), longest), -1)
    plain = np.zeros((len(rows), longest), dtype=bool)
    for number, (row, shared) in enumerate((row.examples, row.shared) for row in rows):
        ids[number, :shared], positions[number, :shared] = row[0].input_ids[:shared], np.arange(shared)
        part[number, :shared] = 0
        begin = shared
        for segment, example in enumerate(row, start=1):
            body, wanted = example.input_ids[shared:], example.supervised[shared:]
            place = slice(begin, begin + len(body))
            ids[number, place], part[number, place] = body, segment
            positions[number, place] = shared + np.arange(len(body))
            plain[number, place] = example.plain
            labels[number, begin : begin + len(body) - 1] = np.where(wanted[1:], body[1:], IGNORED)
            begin += len(body)
    segments = torch.from_numpy(part)
    same = segments.unsqueeze(2) == segments.unsqueeze(1)  # padding (-1) sees padding alone, its rows count nowhere
    seen = (same | (segments == 0).unsqueeze(1)) & torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions),
        "labels": torch.from_numpy(labels),
        "plain": torch.from_numpy(plain),
        "attention_mask": mask.unsqueeze(1),
    }


def prompt_batch(prompts: Sequence[np.ndarray], pad: int) -> tuple[Tensor, Tensor]:
    """Left-pad prompts: input_ids and attention_mask, each int64 [B, T]."""
    longest = max(len(prompt) for prompt in prompts)
    ids, mask = np.full((len(prompts), longest), pad), np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
