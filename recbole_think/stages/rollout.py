"""Rollouts of reasoning enhancement: rationales of the policy as it is now, and the beams each leads to.

One reading of a prompt serves all its rationales, and the beams of a rationale go on from where it ended: for the
reward nothing is read twice. How TRL's trainer calls (``rollout_func``) is the same for every stage: ``Drawing``.
B prompts, G rationales of each, K beams.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_think.decoding.beam import Search
from recbole_think.decoding.item_mask import ItemMask
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.sampling import SampleOptions, Samples, noise_of, sample
from recbole_think.decoding.thinking import led_to
from recbole_think.decoding.trie import SidTrie
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.batching import prompt_batch, token_batches
from recbole_think.stages.dialect import Dialect
from recbole_think.stages.rewards import Led

FIELDS = ("prompt_ids", "completion_ids", "logprobs", "env_mask", "led")  # what TRL is given, one each a rationale


@dataclass(frozen=True)
class Asked:
    """One prompt of the policy's."""

    ids: np.ndarray  # int64, of the dialect, up to the first word of the thought
    target: int  # RecBole id
    masked: np.ndarray  # int64, RecBole ids that may not be named


class Drawing:
    """Completions of the policy as it is now, where TRL asks for them."""

    asked: Sequence[Asked]
    seconds: dict[str, float]  # of the parts of the last call

    @property
    def group(self) -> int:
        """G, completions of a prompt."""
        raise NotImplementedError

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """What TRL asks for: prompts (their numbers, each ``G`` times in a row) to token ids, and where they led."""
        numbers = [int(prompt) for prompt in prompts[:: self.group]]
        with trainer.learner.at_hand() as model:
            training = model.training
            model.eval()
            try:
                return self.follow(model, numbers, trainer)
            finally:
                model.train(training)

    def follow(self, model: Any, numbers: Sequence[int], trainer: Any) -> dict[str, Any]:
        """Completions of some prompts (places in ``asked``), side by side, at this step of TRL's trainer."""
        raise NotImplementedError

    def engine(self, policy: Path) -> dict[str, Any]:
        """What TRL's ``GRPOConfig`` is told of an engine that draws in our place.

        Args:
            policy: folder of the policy as the stage began, with its tokenizer.
        """
        return {}


def masked_items(asked: Sequence[Asked], n_items: int) -> ItemMask | None:
    """What may not be named after each prompt, as cells of [B, n]; None where everything may."""
    users = np.repeat(np.arange(len(asked)), [len(one.masked) for one in asked])
    if not len(users):
        return None
    items = np.concatenate([one.masked for one in asked]) - 1
    return ItemMask(torch.from_numpy(users), torch.from_numpy(items), (len(asked), n_items))


@dataclass
class Rollout(Drawing):
    """Draws rationales and follows them."""

    vocabulary: Vocabulary
    codes: Codes
    trie: SidTrie
    dialect: Dialect
    words: np.ndarray  # tokens of the whole vocabulary that may be said
    asked: Sequence[Asked]
    sampling: SampleOptions
    beams: int
    normalize: str
    seed: int
    dtype: torch.dtype
    tokens_per_batch: int = 16384
    seconds: dict[str, float] = field(default_factory=dict)  # of the last call: rollout, reward

    def __post_init__(self):
        self.code_tokens = [
            torch.from_numpy(self.dialect.ids(tokens.numpy())) for tokens in self.vocabulary.code_tokens
        ]
        self.only = torch.from_numpy(self.dialect.ids(self.words))
        self.stop = int(self.dialect.ids(self.vocabulary.marks[1]))

    @property
    def group(self) -> int:
        """Rationales of a prompt."""
        return self.sampling.samples

    @torch.no_grad()
    def follow(self, model: Any, numbers: Sequence[int], trainer: Any) -> dict[str, list]:
        """Rationales after some prompts, in one batch, and where each led.

        Args:
            model: the policy, a plain model of the dialect.
            numbers: places in ``asked``.
            trainer: TRL's.

        Returns:
            Lists of B * G: prompt_ids, completion_ids, logprobs, env_mask (0 = a token that was not drawn), led.
        """
        count = self.sampling.samples
        policy = lowered(model, self.dtype)
        found: dict[str, list] = {name: [None] * (len(numbers) * count) for name in FIELDS}
        begin = time.perf_counter()
        draw = self.drawn(policy, numbers, trainer)
        spent = {"rollout": time.perf_counter() - begin, "reward": 0.0}
        lengths = [len(self.asked[number].ids) + count * self.sampling.max_tokens for number in numbers]
        for rows in token_batches(lengths, self.tokens_per_batch):
            begin = time.perf_counter()
            samples = draw(rows)
            middle = time.perf_counter()
            led = self._led(policy, samples, [numbers[row] for row in rows])
            spent["rollout"] += middle - begin
            spent["reward"] += time.perf_counter() - middle
            for place, row in enumerate(rows):
                for number in range(count):
                    length, closed = int(samples.lengths[place, number]), bool(samples.closed[place, number])
                    at = row * count + number
                    found["prompt_ids"][at] = self.asked[numbers[row]].ids.tolist()
                    found["completion_ids"][at] = samples.tokens[place, number, :length].tolist()
                    found["logprobs"][at] = samples.log_probs[place, number, :length].tolist()
                    found["env_mask"][at] = [1] * (length - 1) + [int(closed)]
                    found["led"][at] = led[place * count + number]
        self.seconds = spent
        return found

    def drawn(self, policy: Any, numbers: Sequence[int], trainer: Any) -> Callable[[Sequence[int]], Samples]:
        """How rationales come about: a function of some places in ``numbers`` that gives theirs, read by ``policy``.

        Chance is drawn by seed, by step of the optimizer and by prompt: a rationale is the same in any batch.
        """

        def draw(rows: Sequence[int]) -> Samples:
            some = [numbers[row] for row in rows]
            ids, attention = self.prompts(some)
            noise = noise_of([(self.seed, trainer.state.global_step, number) for number in some], self.sampling)
            return sample(policy, ids, attention, self.sampling, self.stop, noise, self.only)

        return draw

    def prompts(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of some prompts, int64 [B, T] each."""
        return prompt_batch([self.asked[number].ids for number in numbers], self.dialect.pad)

    def _led(self, policy: Any, samples: Samples, numbers: Sequence[int]) -> list[Led]:
        count = self.sampling.samples
        mask = masked_items([self.asked[number] for number in numbers], self.trie.n)
        fixed = Search(policy, samples.reader, self.trie, self.code_tokens, self.normalize)
        wanted = torch.tensor([self.asked[number].target - 1 for number in numbers])
        thoughts = led_to(fixed, samples, self.beams, mask, wanted)
        targets = wanted.repeat_interleave(count).tolist()
        log_probs = thoughts.log_probs.tolist() if thoughts.log_probs is not None else [0.0] * len(targets)
        return [
            Led(
                codes=thoughts.beams.codes[row][there].numpy(),
                items=thoughts.beams.items[row][there].numpy() + 1,
                target=target + 1,
                target_codes=self.codes.table[target],
                beams=self.beams,
                tokens=int(samples.lengths[divmod(row, count)]) - 1,
                longest=self.sampling.max_tokens - 1,
                closed=bool(samples.closed[divmod(row, count)]),
                log_prob=log_probs[row],
            )
            for row, (target, there) in enumerate(zip(targets, thoughts.beams.items >= 0, strict=True))
        ]
