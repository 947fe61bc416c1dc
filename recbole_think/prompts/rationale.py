"""Rationales: why an item comes next, as words and cited items (OneRec-Think, "Reasoning Activation").

A rationale is a run of pieces: words, items by RecBole id, which a model reads as their itemic tokens, and groups of
items, read as the code they begin with. So what is cited can be checked by id, however many items share a title. Knows
nothing of models and servers: whoever explains gives text or token ids, and here they become pieces.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from recbole_think.corpus.items import ItemText
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.templates import (
    RATIONALE_NEXT,
    RATIONALE_NOTHING,
    TEACHER_SYSTEM,
    TEACHER_USER,
)


@dataclass(frozen=True)
class Group:
    """All items that begin with one code."""

    name: str  # spelling of the code, as in "<a_12>"


Pieces = tuple[str | int | Group, ...]  # words as they are written, items by RecBole id, groups of items
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


def traits(items: Sequence[ItemText], named: str, vocabulary: Vocabulary) -> list[list[str | Group]]:
    """What a rationale may say of each item.

    Args:
        items: item r + 1 at place r.
        named: one of ``options.NAMED``: the parts of its category, its category whole without the part all items share
            (a chain of levels, as "Makeup > Nails > Nail Polish"), or the code it begins with.
        vocabulary: codes as tokens.
    """
    if named == "codes":
        names = vocabulary.tokenizer.convert_ids_to_tokens(vocabulary.item_tokens[:, 0].tolist())
        return [[Group(name)] for name in names]
    parts = [kinds(item) for item in items]
    if named == "kinds":
        return [list(of_item) for of_item in parts]
    root = int(len({of_item[0] for of_item in parts if of_item}) == 1)
    return [[" > ".join(of_item[root:])] if of_item[root:] else [] for of_item in parts]


def category_rationale(
    case: Case,
    items: Sequence[ItemText],
    cited: int,
    named: int,
    target_category: bool = False,
    of_items: Sequence[Sequence[str | Group]] | None = None,
) -> Pieces:
    """Say which items of the history speak for the next one and what they have in common.

    The paper's public recipe is one line made of the target's own category; here the words come from the evidence, and
    the target's category is said only if asked for.

    Args:
        case: what is explained.
        items: item r + 1 at place r.
        cited: items named.
        named: how much they have in common is named.
        target_category: end with the category of the target.
        of_items: what may be said of item r + 1 at place r, from ``traits``; None = its kinds.
    """
    pieces: list[str | int | Group] = list(case.evidence[:cited])
    if named:
        said = [kinds(items[item - 1]) if of_items is None else of_items[item - 1] for item in case.evidence]
        shared = [trait for trait, _ in Counter(trait for of in said for trait in dict.fromkeys(of)).most_common(named)]
        groups = [trait for trait in shared if isinstance(trait, Group)]
        words = ", ".join(trait for trait in shared if isinstance(trait, str)) or RATIONALE_NOTHING
        pieces += groups or [f" {words}."]
    if target_category:
        pieces.append(RATIONALE_NEXT.format(kinds=", ".join(kinds(items[case.target - 1])) or RATIONALE_NOTHING))
    return tuple(pieces)


def category_texts(items: Sequence[ItemText], of_items: Sequence[Sequence[str | Group]] | None = None) -> list[str]:
    """Texts that hold every word ``category_rationale`` may say, as it says it: after a comma, and at the end."""
    every = [*dict.fromkeys(kind for item in items for kind in kinds(item)), RATIONALE_NOTHING]
    said = [*dict.fromkeys([*every, *(trait for of in of_items or () for trait in of if isinstance(trait, str))])]
    alone = [f"{kind}." for kind in said]
    return [*alone, *(f"{kind}, {kind}." for kind in said), *(RATIONALE_NEXT.format(kinds=kind) for kind in every)]


def encoded(pieces: Pieces, vocabulary: Vocabulary) -> list[int]:
    """Token ids of a rationale."""
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, str):
            ids += vocabulary.encode(piece.strip(), lead=" ")
        elif isinstance(piece, Group):
            ids.append(cast(int, vocabulary.tokenizer.convert_tokens_to_ids(piece.name)))
        else:
            ids += vocabulary.item_tokens[piece - 1].tolist()
    return ids


def decoded(ids: Sequence[int], vocabulary: Vocabulary, items_of: Mapping[tuple[int, ...], int]) -> Pieces:
    """Turn generated token ids into pieces; codes that name no item, and marks, become the word ``?``.

    A first code that no second follows is the group of items that begin with it.

    Args:
        ids: without the marks around a thought.
        vocabulary: codes as tokens.
        items_of: from ``items_by_tokens``.
    """
    pieces: list[str | int | Group] = []
    words: list[int] = []
    levels, place = vocabulary.item_tokens.shape[1], 0
    firsts, seconds = (set(level.tolist()) for level in (*vocabulary.code_tokens, vocabulary.code_tokens[0])[:2])

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
        alone = ids[place] in firsts and not set(ids[place + 1 : place + 2]) & seconds
        group = Group(str(vocabulary.tokenizer.convert_ids_to_tokens(ids[place]))) if alone else "?"
        pieces.append(group if item is None else item)
        place += 1 if item is None else levels
    say()
    return tuple(pieces)


def items_by_tokens(vocabulary: Vocabulary) -> dict[tuple[int, ...], int]:
    """RecBole id of the item that some itemic tokens name."""
    return {tuple(tokens): row + 1 for row, tokens in enumerate(vocabulary.item_tokens.tolist())}


def spoken(pieces: Pieces, items: Sequence[ItemText]) -> str:
    """A rationale as a person reads it, items by title."""

    def read(piece: str | int | Group) -> str:
        if isinstance(piece, int):
            return f"[{items[piece - 1].title}]"
        return piece.strip() if isinstance(piece, str) else piece.name

    return re.sub(r" ([.,:;])", r"\1", " ".join(map(read, pieces)))


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
    pieces: list[str | int | Group] = []
    for part, piece in enumerate(CITED.split(text)):
        if part % 2:
            pieces += [lines.get(number, 0) for number in re.findall(r"\d+", piece)]
        elif piece.strip():
            pieces.append(f" {' '.join(piece.split())}")
    return tuple(pieces)
