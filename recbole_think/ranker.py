"""Ranked lists after histories: prompts, thoughts, beams, item ids, and a count of what the model answered.

Takes a language model that knows the codes, and gives RecBole item ids. Knows nothing of data sets or evaluators.
B users, n items, K length of a list.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_think.answering import Asked, Own, Stepwise
from recbole_think.decoding.beam import Search
from recbole_think.decoding.engine import OURS, Engine, names_items
from recbole_think.decoding.exact import score_targets
from recbole_think.decoding.item_mask import Mask, cells_of
from recbole_think.decoding.likelihood import code_logits
from recbole_think.decoding.options import DecodeOptions
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.ranking import AnswerCount, illegal_answers
from recbole_think.decoding.reading import reader_of
from recbole_think.decoding.thinking import merged
from recbole_think.decoding.trie import SidTrie
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.batching import prompt_batch, token_batches
from recbole_think.prompts.tasks import recommendation_frame, recommendation_prompt
from recbole_think.prompts.thinking import given_thought, instructed_frame

# places in what is asked -> bool [B, n], True = may not be named, or its cells
MaskOf = Callable[[list[int]], Mask | None]


@dataclass(frozen=True)
class Thought:
    """One thought, and where it led."""

    ids: list[int]  # token ids, without the marks around it
    closed: bool  # it ended by itself
    items: list[int]  # RecBole ids its beams reached, best first
    scores: list[float]  # their log-probabilities after this thought
    log_prob: float | None = None  # of the item asked for


@dataclass
class Ranker(AnswerCount):
    """Names the best items after histories."""

    language_model: Any
    vocabulary: Vocabulary
    codes: Codes
    max_history: int  # latest items a prompt shows
    words: Tensor  # int64 [W], tokens a thought may be made of
    seed: int = 0  # of thoughts
    engine: Engine | None = None  # that answers where ``decode.engine`` names another than this process

    def __post_init__(self):
        self.trie = SidTrie(torch.from_numpy(self.codes.table))
        self.frame = recommendation_frame(self.vocabulary.tokenizer)

    def prompts(self, histories: list[np.ndarray], instruction: str = "") -> list[np.ndarray]:
        """Token ids of each user's prompt.

        Args:
            histories: per user int64 [h], RecBole item ids, oldest first.
            instruction: a wish in words, such as "only comedies"; it steers what is thought.
        """
        latest = [history[-self.max_history :] for history in histories]
        frame = instructed_frame(self.vocabulary, instruction) if instruction.strip() else self.frame
        return [recommendation_prompt(frame, self.vocabulary, history) for history in latest]

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
        """Rank after each prompt, those of like length together; thinking before it answers, if ``options.think``.

        Args:
            prompts: int64 token ids of each.
            mask_of: what may not be named after some of them.
            options: how lists are generated.
            dtype: what the model multiplies in.
            done: told how many were ranked, batch by batch.

        Returns:
            Per prompt up to ``options.candidates`` RecBole item ids, best first.
        """
        ranked: list[list[int]] = [[] for _ in prompts]
        who = self._who(options.engine, dtype)
        for rows in who.batches(prompts, options):
            some, mask = [prompts[row] for row in rows], mask_of(rows)
            if options.think:
                beams = who.thoughts(some, mask, options).beams
                lists = merged(beams, options.thoughts, options.merge)
            else:
                beams = who.beams(some, mask, options.num_beams, options)
                lists = [[item for item in items if item >= 0] for items in beams.items.tolist()]
            self.count(*illegal_answers(beams.codes, beams.items, self.codes.table))
            for row, items in zip(rows, lists, strict=True):
                ranked[row] = [item + 1 for item in items]
            if done is not None:
                done(len(rows))
        return ranked

    @torch.no_grad()
    def think(
        self, prompts: list[np.ndarray], mask_of: MaskOf, options: DecodeOptions, dtype: torch.dtype,
        targets: np.ndarray | None = None,
    ) -> list[list[Thought]]:  # fmt: skip
        """Think ``options.thoughts`` times after each prompt, the very thoughts ``rank`` would have.

        Where targets are to be scored, this process thinks, whatever the engine: it has the logits.

        Args:
            prompts: int64 token ids of each.
            mask_of: what may not be named after some of them.
            options: how to think.
            dtype: what the model multiplies in.
            targets: int64 [B], RecBole ids whose log-probability after each thought is asked for.
        """
        thought: list[list[Thought]] = [[] for _ in prompts]
        who = self._who(options.engine if targets is None else OURS, dtype)
        for rows in who.batches(prompts, replace(options, think=True)):
            wanted = None if targets is None else targets[rows]
            found = who.thoughts([prompts[row] for row in rows], mask_of(rows), options, wanted)
            for place, row in enumerate(rows):
                for number in range(options.thoughts):
                    length, beam = int(found.lengths[place, number]), place * options.thoughts + number
                    ids = found.tokens[place, number, : length - 1].tolist()
                    items = [item + 1 for item in found.beams.items[beam].tolist() if item >= 0]
                    scores = found.beams.scores[beam, : len(items)].tolist()
                    log_prob = None if found.log_probs is None else float(found.log_probs[beam])
                    thought[row].append(Thought(ids, bool(found.closed[place, number]), items, scores, log_prob))
        return thought

    @torch.no_grad()
    def rank_after(
        self, prompts: list[np.ndarray], thoughts: list[list[list[int]]], mask_of: MaskOf, options: DecodeOptions,
        dtype: torch.dtype,
    ) -> list[list[int]]:  # fmt: skip
        """Rank after given thoughts, as many for every prompt, as ``rank`` does after its own.

        Args:
            prompts: int64 token ids of each.
            thoughts: of every prompt, token ids without marks.
            mask_of: what may not be named after some of the prompts.
            options: how lists are generated.
            dtype: what the model multiplies in.
        """
        ranked: list[list[int]] = [[] for _ in prompts]
        own, each = Own(self, lowered(self.language_model, dtype)), len(thoughts[0])
        lengths = [each * (len(prompt) + max(map(len, told))) for prompt, told in zip(prompts, thoughts, strict=True)]
        for rows in token_batches(lengths, options.tokens_per_batch):
            told = [given_thought(prompts[row], thought, self.vocabulary) for row in rows for thought in thoughts[row]]
            mask = mask_of(rows)
            of_each = None if mask is None else cells_of(mask).repeated(each)
            beams = own.beams(told, of_each, options.thought_beams, options)
            for row, items in zip(rows, merged(beams, each, options.merge), strict=True):
                ranked[row] = [item + 1 for item in items]
        return ranked

    @torch.no_grad()
    def log_probs(
        self, prompts: list[np.ndarray], targets: np.ndarray, options: DecodeOptions, dtype: torch.dtype
    ) -> np.ndarray:
        """Log-probability of one item after each prompt, answered directly: float32 [B].

        Args:
            prompts: int64 token ids of each.
            targets: int64 [B], RecBole ids.
            options: how lists are generated.
            dtype: what the model multiplies in.
        """
        found = np.zeros(len(prompts), dtype=np.float32)
        decoder = lowered(self.language_model, dtype)
        reader = reader_of(decoder, max(map(len, prompts)) + self.trie.levels)
        fixed = Search(decoder, reader, self.trie, self.vocabulary.code_tokens, options.normalize)
        for rows in token_batches([len(prompt) for prompt in prompts], options.tokens_per_batch):
            batch = prompt_batch([prompts[row] for row in rows], self.vocabulary.tokenizer.pad_token_id)
            hidden, at = reader.prompts(*batch)
            found[rows] = score_targets(fixed, hidden, at, torch.from_numpy(targets[rows] - 1)).numpy()
        return found

    @property
    def probe(self) -> np.ndarray:
        """Token ids of a prompt that every model answers in its own way: a history of the first items."""
        return self.prompts([np.arange(1, 1 + min(3, self.trie.n))])[0]

    @torch.no_grad()
    def first_codes(self) -> np.ndarray:
        """Log-probabilities of the first codes after ``probe``, among themselves: float32 [S].

        What a model is recognised by where its weights cannot be seen.
        """
        prompt = prompt_batch([self.probe], self.vocabulary.tokenizer.pad_token_id)
        hidden, _ = reader_of(self.language_model, len(self.probe) + 1).prompts(*prompt)
        head = self.language_model.get_output_embeddings()
        return code_logits(head, hidden[0, 0], self.vocabulary.code_tokens[0]).log_softmax(-1).cpu().numpy()

    def _who(self, engine: str, dtype: torch.dtype) -> Own | Asked:
        """Who answers."""
        if engine != OURS and self.engine is not None and names_items(self.engine):
            return Asked(self, self.engine, Stepwise(self, self.engine))
        own = Own(self, lowered(self.language_model, dtype))
        if engine == OURS:
            return own
        if self.engine is None:
            raise RuntimeError(f"decode.engine={engine} was not opened")
        return Asked(self, self.engine, own)
