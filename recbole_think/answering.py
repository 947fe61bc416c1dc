"""Who answers a ranker's prompts: this process, or an engine; either gives thoughts and beams, batch by batch.

Knows a ranker's vocabulary, trie and words, and nothing of lists. B users, N thoughts of each, K beams, n items.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch

from recbole_think.decoding.beam import BeamResult, Search, beam_search
from recbole_think.decoding.engine import CodeEngine, Engine, Said, Speech
from recbole_think.decoding.item_mask import Mask, cells_of
from recbole_think.decoding.options import DecodeOptions
from recbole_think.decoding.sampling import noise_of, sample
from recbole_think.decoding.stepwise import stepwise_search
from recbole_think.decoding.thinking import Thoughts, led_to
from recbole_think.prompts.batching import prompt_batch, token_batches
from recbole_think.prompts.thinking import given_thought, thought_prompt

if TYPE_CHECKING:
    from recbole_think.ranker import Ranker

TOGETHER = 512  # users an engine is asked about at once: it makes its own batches of them


@dataclass(frozen=True)
class Own:
    """This process answers."""

    ranker: "Ranker"
    decoder: Any  # language model, in the precision it multiplies in

    def batches(self, prompts: list[np.ndarray], options: DecodeOptions) -> list[list[int]]:
        """Prompts of like length together; a thought's own tokens count as well."""
        more = options.thoughts * (options.thought_tokens + 2) if options.think else 0
        return token_batches([len(prompt) + more for prompt in prompts], options.tokens_per_batch)

    def thoughts(
        self,
        prompts: list[np.ndarray],
        mask: Mask | None,
        options: DecodeOptions,
        targets: np.ndarray | None = None,
    ) -> Thoughts:
        """Think after each prompt, and see where it leads; ``targets`` [B] are RecBole ids to be scored besides."""
        ranker = self.ranker
        vocabulary, how = ranker.vocabulary, options.sampling
        begun = [thought_prompt(prompt, vocabulary) for prompt in prompts]
        noise = noise_of([(ranker.seed, crc32(prompt.tobytes())) for prompt in prompts], how)
        asked = prompt_batch(begun, vocabulary.tokenizer.pad_token_id)
        samples = sample(self.decoder, *asked, how, vocabulary.marks[1], noise, ranker.words)
        fixed = Search(self.decoder, samples.reader, ranker.trie, vocabulary.code_tokens, options.normalize)
        wanted = None if targets is None else torch.from_numpy(targets - 1)
        return led_to(fixed, samples, options.thought_beams, mask, wanted)

    def beams(self, prompts: list[np.ndarray], mask: Mask | None, num_beams: int, options: DecodeOptions) -> BeamResult:
        """The ``num_beams`` most likely items after each prompt, those of like length read together."""
        ranker, found = self.ranker, []
        parts = self.batches(prompts, replace(options, think=False))
        for rows in parts:
            asked = prompt_batch([prompts[row] for row in rows], ranker.vocabulary.tokenizer.pad_token_id)
            found.append(
                beam_search(
                    self.decoder, *asked, ranker.trie, ranker.vocabulary.code_tokens, min(num_beams, ranker.trie.n),
                    options.normalize, item_mask=None if mask is None else cells_of(mask).chosen(rows),
                )
            )  # fmt: skip
        back = torch.tensor([row for rows in parts for row in rows]).argsort()
        return BeamResult(
            torch.cat([beams.items for beams in found])[back],
            torch.cat([beams.scores for beams in found])[back],
            torch.cat([beams.codes for beams in found])[back],
        )


@dataclass(frozen=True)
class Stepwise:
    """An engine whose logits are elsewhere names items."""

    ranker: "Ranker"
    engine: CodeEngine

    def beams(self, prompts: list[np.ndarray], mask: Mask | None, num_beams: int, options: DecodeOptions) -> BeamResult:
        """The ``num_beams`` most likely items after each prompt."""
        ranker = self.ranker
        return stepwise_search(
            self.engine, prompts, ranker.trie, ranker.vocabulary.code_tokens, min(num_beams, ranker.trie.n),
            options.normalize, mask,
        )  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """An engine thinks; items are named by it as well, or by this process."""

    ranker: "Ranker"
    engine: Engine
    items: Own | Stepwise

    def batches(self, prompts: list[np.ndarray], options: DecodeOptions) -> list[list[int]]:
        """So many that an engine can fill its own batches."""
        return [list(range(len(prompts)))[first : first + TOGETHER] for first in range(0, len(prompts), TOGETHER)]

    def thoughts(
        self,
        prompts: list[np.ndarray],
        mask: Mask | None,
        options: DecodeOptions,
        targets: np.ndarray | None = None,
    ) -> Thoughts:
        """Think after each prompt, and see where it leads; targets cannot be scored."""
        if targets is not None:
            raise RuntimeError("an engine does not score targets")
        ranker, vocabulary, how = self.ranker, self.ranker.vocabulary, options.sampling
        begun = [thought_prompt(prompt, vocabulary).tolist() for prompt in prompts]
        seeds = [(ranker.seed << 32 | crc32(prompt.tobytes())) % 2**63 for prompt in prompts]
        speech = Speech(ranker.words, vocabulary.marks[1], len(vocabulary.tokenizer))
        said = [one for of in self.engine.say(begun, how, speech, seeds) for one in of]  # B * N
        told = [given_thought(prompts[place // how.samples], one.ids, vocabulary) for place, one in enumerate(said)]
        of_each = None if mask is None else cells_of(mask).repeated(how.samples)
        beams = self.items.beams(told, of_each, options.thought_beams, options)
        return _laid_out(said, how.samples, vocabulary.marks[1], beams)

    def beams(self, prompts: list[np.ndarray], mask: Mask | None, num_beams: int, options: DecodeOptions) -> BeamResult:
        """The ``num_beams`` most likely items after each prompt."""
        return self.items.beams(prompts, mask, num_beams, options)


def _laid_out(said: list[Said], count: int, stop: int, beams: BeamResult) -> Thoughts:
    """Thoughts as ``thinking.led_to`` gives them: the closing mark last, then padding with it."""
    lengths = torch.tensor([len(one.ids) + 1 for one in said])
    tokens = torch.full((len(said), int(lengths.max())), stop)
    for row, one in enumerate(said):
        tokens[row, : len(one.ids)] = torch.tensor(one.ids, dtype=torch.int64)
    closed = torch.tensor([one.closed for one in said])
    return Thoughts(tokens.view(-1, count, tokens.shape[1]), lengths.view(-1, count), closed.view(-1, count), beams)
