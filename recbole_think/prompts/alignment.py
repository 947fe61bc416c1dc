"""The tasks of itemic alignment as token sequences (OneRec-Think, "Itemic Alignment"), each with its loss mask.

- persona: who a person is and what they chose, titles and itemic tokens interleaved; every token is supervised.
- sequential: the recommendation task (tasks.py); itemic tokens of targets alone.
- captioning: itemic tokens -> description; the description alone.
- naming: title or description -> itemic tokens; those alone (MiniOneRec, LC-Rec).
- next_title: history as itemic tokens -> title of the next item; the title alone (MiniOneRec, LC-Rec).
- general: a question and its answer, or plain text; the answer, or all of the text.

All but sequential and naming are plain next-token prediction out of words and codes, so that a model also learns where
an item may stand in a text; a code of those two competes with the codes of its level.
Takes texts that are safe already (corpus room); gives token ids.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from recbole_think.corpus.items import ItemText
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.tasks import Example
from recbole_think.prompts.templates import (
    CAPTION_SYSTEM,
    CAPTION_USER,
    NAMING_SYSTEM,
    NAMING_USER,
    NEXT_TITLE_SYSTEM,
    NEXT_TITLE_USER,
    PERSONA_CHOSE,
    PERSONA_INTERESTS,
    PERSONA_NOBODY,
    PERSONA_PROFILE,
)

MOST_INTERESTS = 3  # of each kind
MARK = "\x00"  # stands for what a template is filled with; no text from outside holds it
Frame = tuple[list[int], list[int]]  # token ids before and after what a template is filled with


@dataclass(frozen=True)
class GeneralText:
    """A question and its answer, or a plain text (no question)."""

    answer: str
    question: str = ""


def chat(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> list[str]:
    """Render a chat up to the assistant's first word, cut where ``MARK`` stands in ``user``."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)).split(MARK)


def template_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of our own template text, special tokens understood."""
    return tokenizer.encode(text, add_special_tokens=False)


def caption_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Token ids before and after the item of the captioning task."""
    return _frame(tokenizer, CAPTION_SYSTEM, CAPTION_USER.format(item=MARK))


def naming_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Token ids before and after the text of the naming task."""
    return _frame(tokenizer, NAMING_SYSTEM, NAMING_USER.format(text=MARK))


def next_title_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Token ids before and after the history of the next-title task."""
    return _frame(tokenizer, NEXT_TITLE_SYSTEM, NEXT_TITLE_USER.format(history=MARK))


def _frame(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> Frame:
    before, after = chat(tokenizer, system, user)
    return template_ids(tokenizer, before), template_ids(tokenizer, after)


def caption_prompt(frame: Frame, vocabulary: Vocabulary, item: int) -> np.ndarray:
    """Token ids up to where the description of RecBole item ``item`` begins."""
    return np.array([*frame[0], *vocabulary.item_tokens[item - 1], *frame[1]], dtype=np.int64)


def caption_example(frame: Frame, vocabulary: Vocabulary, item: int, text: str, longest: int) -> Example:
    """Make one captioning example: the description and its end are supervised, nothing else.

    Args:
        frame: from ``caption_frame``.
        vocabulary: codes as tokens.
        item: RecBole item id.
        text: description of the item.
        longest: most tokens of the description; a longer one is cut and has no end.
    """
    prompt = caption_prompt(frame, vocabulary, item)
    answer = _ended(vocabulary, text, longest)
    return _answered(prompt.tolist(), answer)


def naming_example(frame: Frame, vocabulary: Vocabulary, item: int, text: str, longest: int) -> Example:
    """Make one naming example: the itemic tokens are supervised, nothing else.

    Args:
        frame: from ``naming_frame``.
        vocabulary: codes as tokens.
        item: RecBole item id.
        text: title or description of the item.
        longest: most tokens of the text that are read.
    """
    prompt = [*frame[0], *vocabulary.encode(text)[:longest], *frame[1]]
    ids = np.array([*prompt, *vocabulary.item_tokens[item - 1]], dtype=np.int64)
    return Example(ids, np.arange(len(ids)) >= len(prompt))


def next_title_example(frame: Frame, vocabulary: Vocabulary, history: np.ndarray, title: str, longest: int) -> Example:
    """Make one next-title example: the title and its end are supervised, nothing else.

    Args:
        frame: from ``next_title_frame``.
        vocabulary: codes as tokens.
        history: int64 [h >= 1], RecBole item ids, oldest first.
        title: of the item that comes next.
        longest: most tokens of the title; a longer one is cut and has no end.
    """
    prompt = [*frame[0], *vocabulary.item_tokens[history - 1].reshape(-1).tolist(), *frame[1]]
    return _answered(prompt, _ended(vocabulary, title, longest))


def general_example(vocabulary: Vocabulary, text: GeneralText, longest: int) -> Example:
    """Make one general-language example: an answer and its end are supervised, or all of a plain text.

    Args:
        vocabulary: codes as tokens.
        text: what is said.
        longest: most tokens of the answer or text.
    """
    if not text.question:
        ids = vocabulary.encode(text.answer)[:longest]
        return Example(np.array(ids, dtype=np.int64), np.arange(len(ids)) > 0, plain=True)
    before, after = chat(vocabulary.tokenizer, "", MARK)
    prompt = [
        *template_ids(vocabulary.tokenizer, before),
        *vocabulary.encode(text.question),
        *template_ids(vocabulary.tokenizer, after),
    ]
    return _answered(prompt, _ended(vocabulary, text.answer, longest))


def persona_example(
    vocabulary: Vocabulary,
    who: str,
    history: np.ndarray,
    items: Sequence[ItemText],
    unnamed: Collection[int],
    generator: np.random.Generator,
) -> Example:
    """Make one persona text; all of it is supervised but its first token.

    An item is called by title or by title and category, before or after its itemic tokens, drawn anew each time.

    Args:
        vocabulary: codes as tokens.
        who: the opening sentence.
        history: int64 [h], RecBole item ids.
        items: item r + 1 at place r.
        unnamed: items shown by their tokens alone (held out).
        generator: draws how an item is called.
    """
    ids, end = _begun(vocabulary, who), template_ids(vocabulary.tokenizer, ";")
    for item in history.tolist():
        tokens = vocabulary.item_tokens[item - 1].tolist()
        if item in unnamed:
            ids += [*tokens, *end]
            continue
        name = vocabulary.encode(called(items[item - 1], with_category=bool(generator.integers(2))), lead=" ")
        ids += [*name, *tokens, *end] if generator.integers(2) else [*tokens, *name, *end]
    return Example(np.array(ids, dtype=np.int64), np.arange(len(ids)) > 0, plain=True)


def search_prompt(vocabulary: Vocabulary, item: ItemText) -> np.ndarray:
    """Token ids of a persona text that has just described ``item``: its itemic tokens are next."""
    name = vocabulary.encode(called(item, with_category=True), lead=" ")
    return np.array(_begun(vocabulary, PERSONA_NOBODY) + name, dtype=np.int64)


def called(item: ItemText, with_category: bool) -> str:
    """Name an item in running text."""
    return f"{item.title} ({item.category})" if with_category and item.category else item.title


def opening(profile: str | None, history: np.ndarray, items: Sequence[ItemText]) -> str:
    """Say who a person is: by their profile, else by the categories and brands most frequent in their history.

    Args:
        profile: words of the ``.user`` file, if there is one.
        history: the user's training history, RecBole item ids.
        items: item r + 1 at place r.
    """
    if profile:
        return PERSONA_PROFILE.format(profile=profile)
    met = [items[item - 1] for item in history.tolist()]
    brands = [value for item in met for name, value in item.fields.items() if "brand" in name.lower()]
    liked = [*_top(item.category for item in met if item.category), *_top(brands)]
    return PERSONA_INTERESTS.format(interests=", ".join(liked)) if liked else PERSONA_NOBODY


def _begun(vocabulary: Vocabulary, who: str) -> list[int]:
    return vocabulary.encode(who) + template_ids(vocabulary.tokenizer, PERSONA_CHOSE)


def _top(values) -> list[str]:
    return [value for value, _ in Counter(values).most_common(MOST_INTERESTS)]


def _ended(vocabulary: Vocabulary, text: str, longest: int) -> list[int]:
    """Encode an answer with the end of a turn, or its first tokens if it is too long."""
    ids = vocabulary.encode(text)
    return [*ids, vocabulary.tokenizer.eos_token_id] if len(ids) < longest else ids[:longest]


def _answered(prompt: list[int], answer: list[int]) -> Example:
    ids = np.array([*prompt, *answer], dtype=np.int64)
    return Example(ids, np.arange(len(ids)) >= len(prompt), plain=True)
