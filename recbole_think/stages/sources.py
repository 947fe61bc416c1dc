"""Who explains why an item came next: the data's own categories, the aligned model, or a teacher behind a server.

One interface: cases in, a rationale or None each out, and what that took. Knows nothing of filters and training.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from recbole_think.artifacts import digest
from recbole_think.corpus.items import ItemText
from recbole_think.decoding.sampling import SampleOptions, noise_of, sample
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.alignment import MARK, chat, template_ids
from recbole_think.prompts.batching import prompt_batch, token_batches
from recbole_think.prompts.rationale import (
    Case,
    Pieces,
    category_rationale,
    decoded,
    from_teacher,
    items_by_tokens,
    teacher_messages,
    traits,
)
from recbole_think.prompts.templates import EXPLAIN_SYSTEM, EXPLAIN_USER
from recbole_think.prompts.thinking import plain_words
from recbole_think.stages.activation_options import ActivationOptions
from recbole_think.stages.answers import Answers
from recbole_think.stages.teaching import Asker

TOGETHER = 8192  # padded tokens of prompts the model explains side by side
TEMPERATURE = 0.7  # of its explanations


class Source(Protocol):
    """Whoever explains."""

    def explain(self, cases: Sequence[Case]) -> list[Pieces | None]:
        """Say why each target came next; None = nothing was said."""

    def costs(self) -> dict[str, float]:
        """What explaining has cost so far: questions asked (not those answered before), tokens, seconds."""


@dataclass(frozen=True)
class Category:
    """The paper's public recipe: what the evidence has in common, from its categories."""

    options: ActivationOptions
    items: Sequence[ItemText]
    vocabulary: Vocabulary

    def explain(self, cases: Sequence[Case]) -> list[Pieces | None]:
        """See ``Source``."""
        options = self.options
        said = traits(self.items, options.named, self.vocabulary)
        told = (np.random.default_rng(6300).random(len(cases)) < options.target_category).tolist()
        return [
            category_rationale(case, self.items, options.cited, options.kinds, ends, said) if case.evidence else None
            for case, ends in zip(cases, told, strict=True)
        ]

    def costs(self) -> dict[str, float]:
        """See ``Source``."""
        return {}


@dataclass(frozen=True)
class Own:
    """The aligned model itself, given the pruned context and the target (as in the paper), in words alone.

    Codes learn to compete with those of their level and never with words, so how a code and a word compare in one
    softmax is anybody's guess: after the recommendation stage a model free to say both says nothing but codes.
    """

    model: Any
    vocabulary: Vocabulary
    longest: int  # tokens of an explanation
    answers: Answers
    seed: int
    show_progress: bool = True
    counts: dict[str, float] = field(default_factory=dict)

    @torch.no_grad()
    def explain(self, cases: Sequence[Case]) -> list[Pieces | None]:
        """See ``Source``."""
        vocabulary, items_of = self.vocabulary, items_by_tokens(self.vocabulary)
        frame = [template_ids(vocabulary.tokenizer, part) for part in self._frame()]
        prompts = [self._prompt(frame, case) for case in cases]
        who = digest([self._weights(), self.longest, TEMPERATURE, self.seed, "words"])
        keys = [digest([who, prompt.tolist()], 24) for prompt in prompts]
        known = self.answers.known(keys)
        missing = [place for place, key in enumerate(keys) if key not in known]
        options = SampleOptions(1, self.longest + 1, TEMPERATURE)
        words = torch.from_numpy(plain_words(vocabulary))
        stop, begin = vocabulary.tokenizer.eos_token_id, time.perf_counter()
        batches = token_batches([len(prompts[place]) for place in missing], TOGETHER)
        with tqdm(total=len(missing), desc="explaining", unit="case", disable=not self.show_progress) as bar:
            for rows in batches:
                some = [missing[row] for row in rows]
                ids, mask = prompt_batch([prompts[place] for place in some], vocabulary.tokenizer.pad_token_id)
                noise = noise_of([(self.seed, int(keys[place][:8], 16)) for place in some], options)
                said = sample(self.model, ids, mask, options, stop, noise, words)
                for row, place in enumerate(some):
                    answer = said.tokens[row, 0, : int(said.lengths[row, 0]) - 1].tolist()
                    known[keys[place]] = " ".join(map(str, answer))
                self.answers.add({keys[place]: known[keys[place]] for place in some})
                bar.update(len(some))
        self.counts.update(asked=len(missing), seconds=round(time.perf_counter() - begin, 1))
        return [decoded([int(word) for word in known[key].split()], vocabulary, items_of) for key in keys]

    def costs(self) -> dict[str, float]:
        """See ``Source``."""
        return self.counts

    def _frame(self) -> list[str]:
        user = EXPLAIN_USER.format(history=MARK, target=MARK)
        return chat(self.vocabulary.tokenizer, EXPLAIN_SYSTEM, user)

    def _prompt(self, frame: list[list[int]], case: Case) -> np.ndarray:
        tokens = self.vocabulary.item_tokens
        shown = [item for item in case.history if item in case.evidence]  # in the order they were chosen
        history = tokens[np.array(shown, dtype=np.int64) - 1].reshape(-1).tolist()
        return np.array([*frame[0], *history, *frame[1], *tokens[case.target - 1].tolist(), *frame[2]], dtype=np.int64)

    def _weights(self) -> str:
        return digest(
            [value.detach().flatten()[::97].tolist() for value in self.model.parameters() if value.numel() < 1e7]
        )


@dataclass(frozen=True)
class Teacher:
    """A language model behind an OpenAI-compatible server."""

    asker: Asker
    items: Sequence[ItemText]
    answers: Answers

    def explain(self, cases: Sequence[Case]) -> list[Pieces | None]:
        """See ``Source``; cases without evidence are not asked about: there is nothing to refer to.

        Raises:
            InputError: the server refuses us, or answers nothing any more.
        """
        keys = [self.key(case) for case in cases]
        asked = {
            key: teacher_messages(case, self.items) for key, case in zip(keys, cases, strict=True) if case.evidence
        }
        known = self.answers.known(list(asked))
        self.asker({key: question for key, question in asked.items() if key not in known}, self.answers.add)
        known = self.answers.known(list(asked))
        return [from_teacher(known[key], case) if key in known else None for key, case in zip(keys, cases, strict=True)]

    def key(self, case: Case) -> str:
        """What an answer is kept by: the question, and whom it is put to (at whatever address)."""
        options = self.asker.options
        return digest([options.model, options.temperature, options.max_tokens, teacher_messages(case, self.items)], 24)

    def costs(self) -> dict[str, float]:
        """See ``Source``."""
        return {name: round(float(value), 1) for name, value in self.asker.counts.items()}
