"""Rollouts of item enhancement: the list of the policy as it is now, every item of it a completion of L codes.

B prompts, G items of each list, L levels of a code.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.prompts.batching import prompt_batch, token_batches
from recbole_think.stages.dialect import Dialect
from recbole_think.stages.item_rewards import Listed
from recbole_think.stages.rollout import Asked, Drawing, masked_items

NORMALIZE = "level"  # as the log-probabilities that are trained


@dataclass
class ItemRollout(Drawing):
    """Searches the trie for the G likeliest items."""

    trie: SidTrie
    dialect: Dialect
    code_tokens: list[torch.Tensor]  # of the dialect
    asked: Sequence[Asked]
    beams: int  # G
    dtype: torch.dtype
    tokens_per_batch: int = 16384
    seconds: dict[str, float] = field(default_factory=dict)  # of the last call: rollout

    def __post_init__(self):
        least = self.trie.n - max((len(set(one.masked.tolist())) for one in self.asked), default=0)
        if least < self.beams:
            raise InputError(
                f"item_enhancement.beams={self.beams}, but {least} items are left to name where a history is masked: "
                f"set item_enhancement.beams <= {least}"
            )

    @property
    def group(self) -> int:
        """Items of a list."""
        return self.beams

    def follow(self, model: Any, numbers: Sequence[int], trainer: Any) -> dict[str, Any]:
        """The lists of some prompts, best item first; there is no chance in a step.

        Args:
            model: the policy, a plain model of the dialect.
            numbers: places in ``asked``.
            trainer: TRL's.

        Returns:
            Lists of B * G: prompt_ids, completion_ids, led (a ``Listed`` each); logprobs is None: TRL needs them of
            other engines only.
        """
        begin = time.perf_counter()
        policy, some = lowered(model, self.dtype), [self.asked[number] for number in numbers]
        completions: list[list[list[int]]] = [[] for _ in some]
        led: list[list[Listed]] = [[] for _ in some]
        for rows in token_batches([len(one.ids) for one in some], self.tokens_per_batch // self.beams):
            asked = [some[row] for row in rows]
            ids, attention = prompt_batch([one.ids for one in asked], self.dialect.pad)
            mask = masked_items(asked, self.trie.n)
            lists = beam_search(
                policy, ids, attention, self.trie, self.code_tokens, self.beams, NORMALIZE, item_mask=mask
            )
            tokens = torch.stack([of[lists.codes[..., level]] for level, of in enumerate(self.code_tokens)], -1)
            for place, row in enumerate(rows):
                completions[row] = tokens[place].tolist()
                led[row] = _listed((lists.items[place] + 1).tolist(), asked[place].target)
        self.seconds = {"rollout": time.perf_counter() - begin}
        return {
            "prompt_ids": [one.ids.tolist() for one in some for _ in range(self.beams)],
            "completion_ids": [item for of in completions for item in of],
            "logprobs": None,
            "led": [one for of in led for one in of],
        }


def _listed(items: list[int], target: int) -> list[Listed]:
    right = items.index(target) if target in items else -1
    return [Listed(place, len(items), right) for place in range(len(items))]
