"""What alignment is made of: examples of its tasks from one data set, a part of them held out, mixed by share.

Takes item texts, profiles, training histories and general text; gives packed rows. Held-out items are never described
and never shown or asked for by name, held-out users and general texts never read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recbole_think.corpus.histories import Histories, windows
from recbole_think.corpus.items import ItemText
from recbole_think.errors import InputError
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.alignment import (
    GeneralText,
    caption_example,
    caption_frame,
    general_example,
    naming_example,
    naming_frame,
    next_title_example,
    next_title_frame,
    opening,
    persona_example,
)
from recbole_think.prompts.batching import Row, packed_rows
from recbole_think.prompts.options import TASKS, AlignmentOptions
from recbole_think.prompts.tasks import Example, recommendation_example, recommendation_frame

STRETCH = 16_384  # tokens within which rows of different tasks are shuffled
HELD_OUT_USERS = 64  # at most: enough for a loss


@dataclass(frozen=True)
class Material:
    """What alignment is made of, and which part of it is held out."""

    vocabulary: Vocabulary
    histories: Histories  # training histories
    items: list[ItemText]
    profiles: list[str | None]  # user u + 1 at place u
    general: list[GeneralText]
    options: AlignmentOptions
    max_history: int
    seed: int

    @cached_property
    def held_items(self) -> frozenset[int]:
        """RecBole ids of items never described in training."""
        return self._held(np.arange(1, len(self.items) + 1), 0)

    @cached_property
    def held_users(self) -> frozenset[int]:
        """RecBole ids of users whose histories alignment never reads."""
        lengths = np.diff(self.histories.starts)
        return self._held(np.flatnonzero(lengths >= 2), 1, HELD_OUT_USERS)

    @cached_property
    def held_texts(self) -> frozenset[int]:
        """Places of general texts never trained on."""
        return self._held(np.arange(len(self.general)), 2)

    def _held(self, among: np.ndarray, stream: int, most: int = 2**31) -> frozenset[int]:
        count = min(most, max(1, round(self.options.held_out * len(among))))
        chosen = np.random.default_rng([self.seed, 1000 + stream]).choice(among, count, replace=False)
        return frozenset(chosen.tolist())

    @cached_property
    def prefixes(self) -> dict[str, int]:
        """Tokens all examples of a task begin with."""
        tokenizer = self.vocabulary.tokenizer
        lengths = dict.fromkeys(TASKS, 0)
        lengths["sequential"] = len(recommendation_frame(tokenizer))
        frames = {"captioning": caption_frame, "naming": naming_frame, "next_title": next_title_frame}
        lengths.update({task: len(frame(tokenizer)[0]) for task, frame in frames.items()})
        return lengths

    def examples(
        self, task: str, held: bool, generator: np.random.Generator, last_only: bool = False
    ) -> Iterator[Example]:
        """Give every example of a task once, shuffled.

        Args:
            task: one of ``TASKS``.
            held: the held-out part instead of the training part.
            generator: randomness of this pass.
            last_only: sequential: the last item of a window is the only target.
        """
        if task == "sequential":
            return self._sequential(held, generator, last_only)
        of_task = {
            "persona": self._persona, "captioning": self._captioning, "general": self._general,
            "naming": self._naming, "next_title": self._next_title,
        }  # fmt: skip
        return of_task[task](held, generator)

    def _sequential(self, held: bool, generator, last_only: bool) -> Iterator[Example]:
        frame, levels = recommendation_frame(self.vocabulary.tokenizer), self.vocabulary.item_tokens.shape[1]
        others = self._users(not held)
        for window in windows(self.histories, self.max_history + 1, generator, others):
            example = recommendation_example(frame, self.vocabulary, window)
            if last_only:
                example.supervised[:-levels] = False
            yield example

    def _persona(self, held: bool, generator) -> Iterator[Example]:
        for user in generator.permutation(sorted(self._users(held))):
            history = self.histories.of(user)
            who = opening(self.profiles[user - 1], history, self.items)
            most = self.options.persona_items
            begin = int(generator.integers(max(1, len(history) - most + 1)))
            shown = history[begin : begin + most]
            yield persona_example(self.vocabulary, who, shown, self.items, self.held_items, generator)

    def _captioning(self, held: bool, generator) -> Iterator[Example]:
        frame = caption_frame(self.vocabulary.tokenizer)
        for item in self._items(held, generator):
            text = self.items[item - 1].text
            yield caption_example(frame, self.vocabulary, item, text, self.options.description_tokens)

    def _naming(self, held: bool, generator) -> Iterator[Example]:
        frame = naming_frame(self.vocabulary.tokenizer)
        for item in self._items(held, generator):
            told = self.items[item - 1]
            text = told.text if generator.integers(2) else told.title
            yield naming_example(frame, self.vocabulary, item, text, self.options.description_tokens)

    def _next_title(self, held: bool, generator) -> Iterator[Example]:
        """Every event of a history but its first, so one asks for as many titles as there are transitions."""
        frame, histories = next_title_frame(self.vocabulary.tokenizer), self.histories
        users, places = histories.events()
        among = (places > 0) & np.isin(users, list(self._users(held)))
        if not held:
            among &= ~np.isin(histories.items, list(self.held_items))
        for event in generator.permutation(np.flatnonzero(among)).tolist():
            history = histories.items[event - min(int(places[event]), self.max_history) : event]
            title = self.items[histories.items[event] - 1].title
            yield next_title_example(frame, self.vocabulary, history, title, self.options.description_tokens)

    def _items(self, held: bool, generator) -> list[int]:
        """RecBole ids of the items of either part, shuffled."""
        chosen = [item for item in range(1, len(self.items) + 1) if (item in self.held_items) == held]
        return generator.permutation(chosen).tolist()

    def _general(self, held: bool, generator) -> Iterator[Example]:
        chosen = [place for place in range(len(self.general)) if (place in self.held_texts) == held]
        for place in generator.permutation(chosen).tolist():
            yield general_example(self.vocabulary, self.general[place], self.options.answer_tokens)

    def _users(self, held: bool) -> frozenset[int]:
        everyone = frozenset(np.flatnonzero(np.diff(self.histories.starts) >= 2).tolist())
        return self.held_users if held else everyone - self.held_users


def mixed_rows(
    material: Material, shares: dict[str, float], tokens: int, row_tokens: int, last_only: bool = False
) -> list[Row]:
    """Draw examples by task share until ``tokens`` are reached, packed into rows, shuffled.

    A task begins anew when it is used up. Rows are mixed within stretches of a few thousand tokens, so that every
    optimizer step sees every frequent task.

    Args:
        material: what examples are made of.
        shares: weight of each task, by share of examples.
        tokens: to be read in all; the last example may go beyond.
        row_tokens: most tokens of a row.
        last_only: see ``Material.examples``.
    """
    names = [name for name, share in shares.items() if share > 0]
    weights = np.array([shares[name] for name in names]) / sum(shares[name] for name in names)
    generator = np.random.default_rng([material.seed, 2000])
    streams = {name: _endless(material, name, last_only) for name in names}
    rows: list[Row] = []
    while (left := tokens - sum(row.tokens for row in rows)) > 0:
        drawn: dict[str, list[Example]] = {name: [] for name in names}
        count = 0
        while count < min(left, STRETCH):
            name = names[generator.choice(len(names), p=weights)]
            drawn[name].append(next(streams[name]))
            count += len(drawn[name][-1].input_ids) - material.prefixes[name]
        stretch = [row for name in names for row in packed_rows(drawn[name], material.prefixes[name], row_tokens)]
        rows += [stretch[place] for place in generator.permutation(len(stretch))]
    return rows


def _endless(material: Material, task: str, last_only: bool) -> Iterator[Example]:
    epoch = 0
    while True:
        empty = True
        generator = np.random.default_rng([material.seed, 3000 + TASKS.index(task), epoch])
        for example in material.examples(task, False, generator, last_only):
            empty = False
            yield example
        if empty:
            raise InputError(
                f"task {task}: nothing is left to train on; lower alignment.held_out, or set its share to 0"
            )
        epoch += 1
