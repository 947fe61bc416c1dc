"""Tasks as token sequences: what is read, and which positions are supervised.

The recommendation task puts the history, as itemic tokens, inside the backbone's chat template and the next item
into the assistant's turn. One pass supervises every position: each item of the history is predicted from the items
before it, and the last one from the closed turn, as at inference.
Knows token ids only; the frame of a chat is rendered once, so no text is tokenised per user.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from recbole_think.corpus.histories import Histories
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.templates import RECOMMENDATION_SYSTEM, RECOMMENDATION_USER

MARK = "\u27e6history\u27e7"  # never in a data set's text: neutralised texts are not put into this frame


@dataclass(frozen=True)
class Frame:
    """A chat rendered up to the history, and from there to the assistant's first word."""

    before: np.ndarray  # int64 token ids
    after: np.ndarray  # int64 token ids
    end: np.ndarray  # int64 token ids that close the assistant's turn


@dataclass(frozen=True)
class Example:
    """One training sequence of T tokens."""

    input_ids: np.ndarray  # int64 [T]
    supervised: np.ndarray  # bool [T], True = this token is to be predicted


def recommendation_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Render the chat of the recommendation task once."""
    messages = [
        {"role": "system", "content": RECOMMENDATION_SYSTEM},
        {"role": "user", "content": RECOMMENDATION_USER.format(history=MARK)},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, after = text.split(MARK)
    ids = [np.array(tokenizer.encode(part, add_special_tokens=False), dtype=np.int64) for part in (before, after)]
    return Frame(*ids, np.array([tokenizer.eos_token_id], dtype=np.int64))


def recommendation_prompt(frame: Frame, vocabulary: Vocabulary, history: np.ndarray) -> np.ndarray:
    """Token ids up to where the first code of the answer is next.

    Args:
        frame: the rendered chat.
        vocabulary: codes as tokens.
        history: int64 [h], RecBole item ids, oldest first.
    """
    return np.concatenate([frame.before, vocabulary.item_tokens[history - 1].reshape(-1), frame.after])


def recommendation_example(frame: Frame, vocabulary: Vocabulary, window: np.ndarray) -> Example:
    """Make one example of consecutive items: all but the last are the history, every item but the first a target.

    Args:
        frame: the rendered chat.
        vocabulary: codes as tokens.
        window: int64 [h >= 2], RecBole item ids, oldest first.
    """
    prompt = recommendation_prompt(frame, vocabulary, window[:-1])
    answer = vocabulary.item_tokens[window[-1] - 1]
    ids = np.concatenate([prompt, answer])
    supervised = ids >= vocabulary.first
    supervised[len(frame.before) : len(frame.before) + len(answer)] = False  # nothing comes before the first item
    return Example(ids, supervised)


def windows(histories: Histories, longest: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Cut every history into windows of consecutive items, shuffled; each epoch cuts elsewhere.

    Every transition of a history is in exactly one window: windows share the item they meet at. The first cut is
    drawn at random, so over epochs an item is predicted from short and long contexts.

    Args:
        histories: training histories.
        longest: most items of a window (history and target).
        generator: randomness of this epoch.

    Yields:
        int64 [2..longest] RecBole item ids.
    """
    spans = []
    for user in range(1, histories.n_users):
        begin, end = int(histories.starts[user]), int(histories.starts[user + 1])
        if end - begin < 2:
            continue
        cut = end if end - begin <= longest else begin + int(generator.integers(2, longest + 1))
        while True:
            spans.append((begin, min(cut, end)))
            if cut >= end:
                break
            begin, cut = cut - 1, cut - 1 + longest
    for index in generator.permutation(len(spans)):
        begin, end = spans[index]
        yield histories.items[begin:end]
