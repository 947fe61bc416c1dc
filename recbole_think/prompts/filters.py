"""Which rationales may be learnt from: nothing that gives the answer away, nothing made up, nothing endless.

Checked by item id where items are cited, and by words where titles are written out. A thought at inference is never
filtered: one that guesses the target is what is hoped for.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from recbole_think.corpus.items import ItemText
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.rationale import Case, Group, Pieces, encoded

REASONS = ("empty", "special", "leakage", "ungrounded", "length", "repetition")
NEAR_COPY = 0.85  # likeness of some words to the target's title from which on they count as its copy
GREATER_PART, LONG = 0.6, 4  # so much of a title, at least so many words in a row, is its copy as well
ARTICLES = frozenset({"the", "a", "an"})
WORD = re.compile(r"(?:[^\W_]|')+")  # of any script: a film may be called Сталкер
YEAR = re.compile(r"\(\d{4}\)")
SPELT = re.compile(r"[<(]([a-z]_\d+)[>)]")  # an itemic token written out, as it is or defused
RUN = 3  # the same three words ...
MOST_REPEATED = 0.3  # ... may make up this share of what is said


@dataclass(frozen=True)
class Filter:
    """Judges rationales of one catalogue."""

    items: Sequence[ItemText]
    vocabulary: Vocabulary
    shortest: int = 2  # tokens
    longest: int = 64

    def __post_init__(self):
        titles: dict[tuple[str, ...], set[int]] = {}
        for number, item in enumerate(self.items, start=1):
            words = title_words(item.title)
            if len(words) > 1:  # a title of one word is a word
                titles.setdefault(words, set()).add(number)
        object.__setattr__(self, "titles", titles)
        object.__setattr__(self, "widest", max(map(len, titles), default=0))

    def reason(self, pieces: Pieces, case: Case) -> str | None:
        """Why a rationale is rejected, one of ``REASONS``; None = it may be learnt from."""
        text = " ".join(piece for piece in pieces if isinstance(piece, str))
        if not text.strip() and all(isinstance(piece, str) for piece in pieces):
            return "empty"
        if self.leaks(pieces, case):
            return "leakage"
        if "?" in pieces or SPELT.search(text.lower()) or any(mark in text for mark in ("<|", "<think", "</think")):
            return "special"
        if not self.grounded(pieces, case):
            return "ungrounded"
        if not self.shortest <= len(encoded(pieces, self.vocabulary)) <= self.longest:
            return "length"
        return "repetition" if repeats(text) else None

    def leaks(self, pieces: Pieces, case: Case) -> bool:
        """Whether the target is told: its id, its codes spelt out, its title or a near-copy of it."""
        if case.target in pieces:
            return True
        text = " ".join(piece for piece in pieces if isinstance(piece, str)).lower()
        codes = self.vocabulary.spell(case.target).lower()
        if "".join(f"<{name}>" for name in SPELT.findall(text)).find(codes) >= 0:
            return True
        return holds(tuple(WORD.findall(text)), title_words(self.items[case.target - 1].title))

    def grounded(self, pieces: Pieces, case: Case) -> bool:
        """Whether the history holds every item cited, or named by a title of two words or more, and every group."""
        known = set(case.history) | set(case.evidence)
        allowed = known | groups_of(sorted(known), self.vocabulary)
        if any(piece not in allowed for piece in pieces if not isinstance(piece, str)):
            return False
        words = tuple(WORD.findall(" ".join(piece for piece in pieces if isinstance(piece, str)).lower()))
        for begin in range(len(words)):
            for length in range(2, self.widest + 1):  # type: ignore[attr-defined]
                named = self.titles.get(words[begin : begin + length])  # type: ignore[attr-defined]
                if begin + length <= len(words) and named and not named & known:
                    return False
        return True


def groups_of(items: Sequence[int], vocabulary: Vocabulary) -> set[Group]:
    """Groups that items, by RecBole id, belong to."""
    firsts = vocabulary.item_tokens[[item - 1 for item in items], 0].tolist()
    return {Group(name) for name in vocabulary.tokenizer.convert_ids_to_tokens(firsts)}


def title_words(title: str) -> tuple[str, ...]:
    """Words of a title without its year; "Matrix, The" as "the matrix"."""
    name = YEAR.sub("", title)
    head, comma, article = name.rpartition(",")
    if comma and article.strip().lower() in ("the", "a", "an", "le", "la", "les", "il", "el", "das", "der", "die"):
        name = f"{article} {head}"
    return tuple(WORD.findall(name.lower()))


def holds(words: tuple[str, ...], title: tuple[str, ...]) -> bool:
    """Whether ``words`` say ``title``, something very like it, or the greater part of a long one; articles aside."""
    wanted = tuple(word for word in title if word not in ARTICLES) or title
    said = tuple(word for word in words if word not in ARTICLES or word in wanted)
    if not wanted:
        return False
    phrase = " ".join(wanted)
    for length in {len(wanted) - 1, len(wanted), len(wanted) + 1} - {0}:
        for some in (" ".join(said[begin : begin + length]) for begin in range(len(said) - length + 1)):
            matcher = SequenceMatcher(None, some, phrase, autojunk=False)
            if matcher.real_quick_ratio() >= NEAR_COPY and matcher.ratio() >= NEAR_COPY:
                return True
    greater = max(LONG, math.ceil(GREATER_PART * len(wanted)))
    parts = {wanted[begin : begin + greater] for begin in range(len(wanted) - greater + 1)}
    return any(said[begin : begin + greater] in parts for begin in range(len(said) - greater + 1))


def repeats(text: str) -> bool:
    """Whether a text goes round in circles."""
    words = WORD.findall(text.lower())
    runs = [tuple(words[place : place + RUN]) for place in range(len(words) - RUN + 1)]
    if len(runs) > RUN and 1 - len(set(runs)) / len(runs) > MOST_REPEATED:
        return True
    return any(words[place] == words[place + 1] == words[place + 2] for place in range(len(words) - 2))
