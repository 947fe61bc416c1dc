"""Sequences to tensors: padded batches under a token budget.

B sequences, T tokens of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_think.prompts.soft import Soft
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
        return self.shared + sum(example.tokens - self.shared for example in self.examples)

    @property
    def targets(self) -> int:
        """Supervised tokens of the row."""
        return sum(
            int(example.supervised[self.shared + 1 :].sum())
            + sum(int(branch.supervised[1:].sum()) for branch in example.branches)
            for example in self.examples
        )


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
        body = example.tokens - shared
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
        numbers to add. Where examples have soft labels also soft_rows int64 [B, T], which of M predicted items a label
        belongs to (-1 = none), and soft_codes, soft_shares, soft_weight, soft_target as in ``Soft``, [M, ...].
    """
    longest = max(row.tokens for row in rows)
    sheet = _Sheet(len(rows), longest, pad)
    for number, row in enumerate(rows):
        sheet.fill(number, row)
    return sheet.tensors()


class _Sheet:
    """Rows of a batch being laid out, token by token: R rows of T places."""

    def __init__(self, rows: int, longest: int, pad: int):
        self.ids, self.positions = np.full((rows, longest), pad), np.zeros((rows, longest), dtype=np.int64)
        self.labels, self.plain = np.full((rows, longest), IGNORED), np.zeros((rows, longest), dtype=bool)
        self.segment = np.full((rows, longest), -1)  # 0 = the shared prefix, -1 = padding
        self.soft_rows = np.full((rows, longest), -1)
        self.soft: list[Soft] = []
        self.softened = 0  # items of these
        self.before: list[tuple[int, slice, slice]] = []  # row, places of a branch, places of the sequence it sees

    def fill(self, row: int, given: Row) -> None:
        """Lay out the shared prefix, then every example and what branches off it."""
        shared = given.shared
        self.ids[row, :shared], self.positions[row, :shared] = given.examples[0].input_ids[:shared], np.arange(shared)
        self.segment[row, :shared] = 0
        begin, segment = shared, 0
        for example in given.examples:
            trunk = begin
            body, supervised = example.input_ids[shared:], example.supervised[shared:]
            segment += 1
            self._put(row, begin, segment, shared, body, supervised, np.full(len(body), example.plain))
            if example.soft is not None:
                self._soften(row, begin + np.flatnonzero(supervised) - 1, example.soft)
            begin += len(body)
            for branch in example.branches:
                segment += 1
                self._put(row, begin, segment, branch.at, branch.input_ids, branch.supervised, branch.plain)
                if branch.soft is not None:
                    self._soften(row, begin + np.flatnonzero(branch.supervised & ~branch.plain) - 1, branch.soft)
                end = begin + len(branch.input_ids)
                self.before.append((row, slice(begin, end), slice(trunk, trunk + branch.at - shared)))
                begin = end

    def _put(
        self, row: int, begin: int, segment: int, position: int, ids: np.ndarray, supervised: np.ndarray,
        plain: np.ndarray,
    ) -> None:  # fmt: skip
        place = slice(begin, begin + len(ids))
        self.ids[row, place], self.segment[row, place] = ids, segment
        self.positions[row, place] = position + np.arange(len(ids))
        predicting = slice(begin, begin + len(ids) - 1)
        self.labels[row, predicting] = np.where(supervised[1:], ids[1:], IGNORED)
        self.plain[row, predicting] = plain[1:]

    def _soften(self, row: int, predicting: np.ndarray, soft: Soft) -> None:
        """Say which item each label at ``predicting`` belongs to: as many in a row as it has codes."""
        count = len(soft.weight)
        self.soft_rows[row, predicting] = self.softened + np.repeat(np.arange(count), len(predicting) // count)
        self.softened += count
        self.soft.append(soft)

    def _softened(self) -> dict[str, Tensor]:
        if not self.soft:
            return {}
        parts = {
            f"soft_{name}": torch.from_numpy(np.concatenate([getattr(one, name) for one in self.soft]))
            for name in ("codes", "shares", "weight", "target")
        }
        return {"soft_rows": torch.from_numpy(self.soft_rows), **parts}

    def tensors(self) -> dict[str, Tensor]:
        """See ``packed_batch``."""
        segments = torch.from_numpy(self.segment)
        longest = segments.shape[1]
        same = segments.unsqueeze(2) == segments.unsqueeze(1)  # padding sees padding alone, its rows count nowhere
        seen = (same | (segments == 0).unsqueeze(1)) & torch.ones(longest, longest, dtype=torch.bool).tril()
        for row, branch, before in self.before:
            seen[row, branch, before] = True
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        return {
            "input_ids": torch.from_numpy(self.ids),
            "position_ids": torch.from_numpy(self.positions),
            "labels": torch.from_numpy(self.labels),
            "plain": torch.from_numpy(self.plain),
            "attention_mask": mask.unsqueeze(1),
            **self._softened(),
        }


def prompt_batch(prompts: Sequence[np.ndarray], pad: int) -> tuple[Tensor, Tensor]:
    """Left-pad prompts: input_ids and attention_mask, each int64 [B, T]."""
    longest = max(len(prompt) for prompt in prompts)
    ids, mask = np.full((len(prompts), longest), pad), np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
