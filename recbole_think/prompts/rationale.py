"""Rationales: why an item comes next, as words and cited items (OneRec-Think, "Reasoning Activation").

A rationale is a run of pieces: words, and items by RecBole id, which a model reads as their itemic tokens. So what is
cited can be checked by id, however many items share a title. Knows nothing of models and servers: whoever explains
gives text or token ids, and here they become pieces.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_think.corpus.items import ItemText
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.templates import (
    RATIONALE_NEXT,
    RATIONALE_NOTHING,
    TEACHER_SYSTEM,
    TEACHER_USER,
)

Pieces = tuple[str | int, ...]  # words as they are written, and items by RecBole id
CITED = re.compile(r"\[(\s*\d+(?:[\s,;&]+(?:and\s+)?\d+)*\s*)\]")  # how a teacher names lines it was shown: [2], [1, 3]
SPLIT = re.compile(r"\s*[>|,;/]\s*")  # between the kinds of one item


@dataclass(frozen=True)
class Case:
    """Something to be explained: what a user did, and what came next."""

    history: tuple[int, ...]  # RecBole ids before the target, oldest first, as far as a prompt shows them
    target: int
    evidence: tuple[int, ...]  # the pruned context: items of the history nearest to the target, nearest first


def nearest(history: Sequence[int], target: int, vectors: np.ndarray, most: int) -> tuple[int, ...]:
    """Prune a context: the items of ``history`` most like ``target``, nearest first, each once, the target left out.

    Args:
        history: RecBole ids.
        target: RecBole id.
        vectors: float32 [n, d], unit rows, row r = item r + 1.
        most: how many (the paper: 10).
    """
    others = np.array(sorted(set(history) - {target}), dtype=np.int64)
    if not len(others):
        return ()
    cosine = vectors[others - 1] @ vectors[target - 1]
    return tuple(others[np.argsort(-cosine, kind="stable")][:most].tolist())


def kinds(item: ItemText) -> list[str]:
    """What an item is: the parts of its category, the most general first."""
    words = SPLIT.split(item.category or "")
    if len(words) == 1:  # RecBole's token_seq: "Action Thriller"
        words = words[0].split()
    return [word for word in words if word]


def category_rationale(
    case: Case, items: Sequence[ItemText], cited: int, named: int, target_category: bool = False
) -> Pieces:
    """Say which items of the history speak for the next one and what they have in common.

    The paper's public recipe is one line made of the target's own category; here the words come from the evidence, and
    the target's category is said only if asked for.

    Args:
        case: what is explained.
        items: item r + 1 at place r.
        cited: items named.
        named: kinds named.
        target_category: end with the category of the target.
    """
    pieces: list[str | int] = list(case.evidence[:cited])
    if named:
        shared = Counter(kind for item in case.evidence for kind in dict.fromkeys(kinds(items[item - 1])))
        words = ", ".join(kind for kind, _ in shared.most_common(named)) or RATIONALE_NOTHING
        pieces.append(f" {words}.")
    if target_category:
        pieces.append(RATIONALE_NEXT.format(kinds=", ".join(kinds(items[case.target - 1])) or RATIONALE_NOTHING))
    return tuple(pieces)


def category_texts(items: Sequence[ItemText]) -> list[str]:
    """Texts that hold every word ``category_rationale`` may say, as it says it: after a comma, and at the end."""
    every = [*dict.fromkeys(kind for item in items for kind in kinds(item)), RATIONALE_NOTHING]
    alone = [f"{kind}." for kind in every]
    return [*alone, *(f"{kind}, {kind}." for kind in every), *(RATIONALE_NEXT.format(kinds=kind) for kind in every)]


def encoded(pieces: Pieces, vocabulary: Vocabulary) -> list[int]:
    """Token ids of a rationale."""
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, str):
            ids += vocabulary.encode(piece.strip(), lead=" ")
        else:
            ids += vocabulary.item_tokens[piece - 1].tolist()
    return ids


def decoded(ids: Sequence[int], vocabulary: Vocabulary, items_of: Mapping[tuple[int, ...], int]) -> Pieces:
    """Turn generated token ids into pieces; codes that name no item, and marks, become the word ``?``.

    Args:
        ids: without the marks around a thought.
        vocabulary: codes as tokens.
        items_of: from ``items_by_tokens``.
    """
    pieces: list[str | int] = []
    words: list[int] = []
    levels, place = vocabulary.item_tokens.shape[1], 0

    def say() -> None:
        if words:
            pieces.append(str(vocabulary.tokenizer.decode(words, skip_special_tokens=True)))
            words.clear()

    while place < len(ids):
        if ids[place] < vocabulary.first and ids[place] not in vocabulary.marks:  # marks may be the backbone's own
            words.append(ids[place])
            place += 1
            continue
        say()
        item = items_of.get(tuple(ids[place : place + levels]))
        pieces.append("?" if item is None else item)
        place += 1 if item is None else levels
    say()
    return tuple(pieces)


def items_by_tokens(vocabulary: Vocabulary) -> dict[tuple[int, ...], int]:
    """RecBole id of the item that some itemic tokens name."""
    return {tuple(tokens): row + 1 for row, tokens in enumerate(vocabulary.item_tokens.tolist())}


def spoken(pieces: Pieces, items: Sequence[ItemText]) -> str:
    """A rationale as a person reads it, items by title."""
    said = [piece.strip() if isinstance(piece, str) else f"[{items[piece - 1].title}]" for piece in pieces]
    return re.sub(r" ([.,:;])", r"\1", " ".join(said))


def teacher_messages(case: Case, items: Sequence[ItemText]) -> list[dict[str, str]]:
    """What a teacher is asked: the pruned context as numbered lines, and the target."""
    lines = "\n".join(f"[{n}] {items[item - 1].text}" for n, item in enumerate(case.evidence, start=1))
    return [
        {"role": "system", "content": TEACHER_SYSTEM},
        {"role": "user", "content": TEACHER_USER.format(lines=lines, target=items[case.target - 1].text)},
    ]


def from_teacher(text: str, case: Case) -> Pieces:
    """Turn a teacher's answer into pieces: ``[n]`` is the n-th line it was shown; a line there is not becomes 0."""
    lines = {str(number): item for number, item in enumerate(case.evidence, start=1)}
    pieces: list[str | int] = []
    for part, piece in enumerate(CITED.split(text)):
        if part % 2:
            pieces += [lines.get(number, 0) for number in re.findall(r"\d+", piece)]
        elif piece.strip():
            pieces.append(f" {' '.join(piece.split())}")
    return tuple(pieces)
