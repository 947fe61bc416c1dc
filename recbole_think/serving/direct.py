"""The direct model: lists without a thought, within what was thought ahead of each user and a little beside it.

Knows a ranker and prompts, nothing of users' names, stores or servers. B prompts, K beams, L codes of an item.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_think.decoding.allowed import Allowed, parted
from recbole_think.decoding.beam import BeamResult, Group, Search, search_groups
from recbole_think.decoding.item_mask import ItemMask
from recbole_think.decoding.kept import Kept, keep
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.reading import reader_of
from recbole_think.prompts.batching import prompt_batch, token_batches
from recbole_think.prompts.tasks import recommendation_prompt
from recbole_think.ranker import Ranker


@dataclass(frozen=True)
class Question:
    """One list that is asked for."""

    prompt: np.ndarray  # int64 token ids
    masked: np.ndarray  # int64 [m], RecBole ids that may not be named, each once
    prefixes: Tensor | None  # int64 [p, d]: what items should begin with; None = with anything
    kept: Kept | None = None  # what was read of a prompt that begins alike
    keep: bool = False  # what is read of this one is wanted for the next time


@dataclass(frozen=True)
class Found:
    """Items for one question, best first."""

    items: list[int]  # RecBole ids
    scores: list[float]  # log-probabilities
    kept: Kept | None  # what was read of the prompt, if wanted and if this backbone's reader keeps anything


class DirectModel:
    """Names items after histories, as fast as it can; made once for a set of weights."""

    def __init__(self, ranker: Ranker, dtype: torch.dtype, num_beams: int, normalize: str, tokens_per_batch: int):
        """Take weights as they are now.

        Args:
            ranker: language model and catalogue.
            dtype: what the model multiplies in.
            num_beams: K, of an answer.
            normalize: as in ``beam_search``; ``valid`` becomes ``level``, since scores within prefixes and beside them
                are compared.
            tokens_per_batch: prompt tokens read together.
        """
        self.ranker, self.dtype, self.decoder = ranker, dtype, lowered(ranker.language_model, dtype)
        self.num_beams = min(num_beams, ranker.trie.n)
        self.normalize = "level" if normalize == "valid" else normalize
        self.tokens_per_batch = tokens_per_batch

    def prompt(self, history: np.ndarray) -> np.ndarray:
        """Token ids up to where the first code of an answer is next."""
        return recommendation_prompt(self.ranker.frame, self.ranker.vocabulary, history)

    def require_room(self, events: int) -> None:
        """Refuse prompts that the backbone could not read.

        Args:
            events: most that a prompt shows.

        Raises:
            InputError: its layers look back less far.
        """
        levels = self.ranker.trie.levels
        reader_of(self.decoder, len(self.ranker.frame) + (events + 1) * levels)

    @torch.no_grad()
    def frame(self) -> Kept | None:
        """What all prompts begin with, read."""
        frame = self.ranker.frame
        return self._kept([Question(frame, frame[:0], None, keep=True)], self._read([frame], [None])[2])[0]

    @torch.no_grad()
    def lists(self, questions: Sequence[Question], share: float, lengths: Sequence[int]) -> list[Found]:
        """Answer questions, those of like length together.

        Args:
            questions: B.
            share: of a list's places that may go beside the prefixes, of those questions that have any.
            lengths: of each list.
        """
        found: list[Found | None] = [None] * len(questions)
        for guided in (True, False):
            rows = [row for row, one in enumerate(questions) if (one.prefixes is not None) == guided]
            for part in token_batches([len(questions[row].prompt) for row in rows], self.tokens_per_batch):
                some = [rows[place] for place in part]
                answers = self._together(
                    [questions[row] for row in some], share if guided else 0.0, [lengths[row] for row in some]
                )
                for row, answer in zip(some, answers, strict=True):
                    found[row] = answer
        return [one for one in found if one is not None]

    def _together(self, questions: Sequence[Question], share: float, lengths: Sequence[int]) -> list[Found]:
        """Answer questions that all have prefixes, or none of which has."""
        fixed, hidden, at = self._read([one.prompt for one in questions], [one.kept for one in questions])
        kept = self._kept(questions, at)
        results = search_groups(fixed, hidden, at, self._groups(questions, share))
        return [
            Found(*_listed(results, row, length, round(share * length)), kept[row])
            for row, length in enumerate(lengths)
        ]

    def _read(self, prompts: Sequence[np.ndarray], known: Sequence[Kept | None]) -> tuple[Search, Any, Any]:
        """Read prompts: the search that goes on from there, what it begins with, and where it stands."""
        ranker = self.ranker
        reader: Any = reader_of(self.decoder, max(map(len, prompts)) + ranker.trie.levels)
        fixed = Search(self.decoder, reader, ranker.trie, ranker.vocabulary.code_tokens, self.normalize)
        if any(known):
            return fixed, *reader.resume(known, prompts)
        return fixed, *reader.prompts(*prompt_batch(prompts, ranker.vocabulary.tokenizer.pad_token_id))

    def _kept(self, questions: Sequence[Question], at: Any) -> list[Kept | None]:
        """What was read of prompts, of those where it is wanted."""
        if not hasattr(at, "parts"):  # a backbone that is read by its own code
            return [None] * len(questions)
        return [keep(one.prompt, at.parts, row) if one.keep else None for row, one in enumerate(questions)]

    def _groups(self, questions: Sequence[Question], share: float) -> list[Group]:
        trie = self.ranker.trie
        users = np.repeat(np.arange(len(questions)), [len(one.masked) for one in questions])
        items = np.concatenate([one.masked for one in questions]) - 1
        mask = ItemMask(torch.from_numpy(users), torch.from_numpy(items), (len(questions), trie.n))
        prefixes = [one.prefixes for one in questions if one.prefixes is not None]
        if not prefixes:
            return [Group(self.num_beams, Allowed(trie, mask))]
        within, beside = parted(trie, prefixes, mask)
        more = int(np.ceil(share * self.num_beams))
        return [Group(self.num_beams, within), *([Group(more, beside)] if more else [])]


def _listed(results: Sequence[BeamResult], row: int, length: int, beside: int) -> tuple[list[int], list[float]]:
    """The best of both groups, of the second one ``beside`` at most: items and scores."""
    found = [
        (-score, item + 1)
        for beams, most in zip(results, (length, beside), strict=False)
        for item, score in zip(beams.items[row, :most].tolist(), beams.scores[row, :most].tolist(), strict=True)
        if item >= 0
    ]
    best = sorted(found)[:length]
    return [item for _, item in best], [-score for score, _ in best]
