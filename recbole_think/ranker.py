"""Ranked lists after histories: prompts, beams, item ids, and a count of what the model answered.

Takes a language model that knows the codes, and gives RecBole item ids. Knows nothing of data sets or evaluators.
B users, n items, K length of a list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.options import DecodeOptions
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.ranking import illegal_answers
from recbole_think.decoding.trie import SidTrie
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.batching import prompt_batch, token_batches
from recbole_think.prompts.tasks import recommendation_frame, recommendation_prompt

MaskOf = Callable[[list[int]], Tensor | None]  # places in what is asked -> bool [B, n], True = may not be named


@dataclass
class Ranker:
    """Names the best items after histories."""

    language_model: Any
    vocabulary: Vocabulary
    codes: Codes
    max_history: int  # latest items a prompt shows

    def __post_init__(self):
        self.trie = SidTrie(torch.from_numpy(self.codes.table))
        self.frame = recommendation_frame(self.vocabulary.tokenizer)
        self.answers = 0, 0  # illegal, all

    def prompts(self, histories: list[np.ndarray]) -> list[np.ndarray]:
        """Token ids of each user's prompt.

        Args:
            histories: per user int64 [h], RecBole item ids, oldest first.
        """
        latest = [history[-self.max_history :] for history in histories]
        return [recommendation_prompt(self.frame, self.vocabulary, history) for history in latest]

    def lengths(self, histories: np.ndarray) -> np.ndarray:
        """Tokens of each user's prompt, from the number of items of the history: int64 [B]."""
        return len(self.frame) + self.trie.levels * np.minimum(histories, self.max_history)

    @torch.no_grad()
    def rank(
        self,
        prompts: list[np.ndarray],
        mask_of: MaskOf,
        options: DecodeOptions,
        dtype: torch.dtype,
        done: Callable[[int], Any] | None = None,
    ) -> list[list[int]]:
        """Rank after each prompt, those of like length together.

        Args:
            prompts: int64 token ids of each.
            mask_of: what may not be named after some of them.
            options: how lists are generated.
            dtype: what the model multiplies in.
            done: told how many were ranked, batch by batch.

        Returns:
            Per prompt up to ``num_beams`` RecBole item ids, best first.
        """
        ranked: list[list[int]] = [[] for _ in prompts]
        decoder = lowered(self.language_model, dtype)
        for rows in token_batches([len(prompt) for prompt in prompts], options.tokens_per_batch):
            ids, attention = prompt_batch([prompts[row] for row in rows], self.vocabulary.tokenizer.pad_token_id)
            found = beam_search(
                decoder, ids, attention, self.trie, self.vocabulary.code_tokens, min(options.num_beams, self.trie.n),
                options.normalize, item_mask=mask_of(rows),
            )  # fmt: skip
            self.count(*illegal_answers(found.codes, found.items, self.codes.table))
            for row, items in zip(rows, found.items.tolist(), strict=True):
                ranked[row] = [item + 1 for item in items if item >= 0]
            if done is not None:
                done(len(rows))
        return ranked

    def count(self, illegal: int, answers: int) -> None:
        """Add to the answers that were given, and to those of them that name no item."""
        self.answers = self.answers[0] + illegal, self.answers[1] + answers

    def take_illegal_rate(self) -> float:
        """Share of answers that name no item, since last asked; the trie makes it 0, the count proves it."""
        illegal, answers = self.answers
        self.answers = 0, 0
        return illegal / max(answers, 1)
