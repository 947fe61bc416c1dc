"""Tasks as token sequences: what is read, and which positions are supervised.

The recommendation task stays inside the backbone's chat template: the person asks for their list to be continued, and
the assistant's turn is the history, as itemic tokens, followed by the next item. So one pass supervises every position,
and the position that answers at inference is of the very kind that was trained. (With the history in the user's turn
and the answer behind a turn marker only one position in fifty is trained as it is used: on ml-100k, after 1.5 epochs,
validation NDCG@10 was .067 behind the marker and .081 without it, same weights.) A rationale, where a later stage
asks for one, begins at the same place as the answer.
Knows token ids only; the frame of a chat is rendered once, so no text is tokenised per user.
"""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.soft import Soft
from recbole_think.prompts.templates import RECOMMENDATION_SYSTEM, RECOMMENDATION_USER


@dataclass(frozen=True)
class Branch:
    """S tokens that go on from somewhere within a sequence and are seen by nothing else; the first is given."""

    at: int  # tokens of the sequence that come before
    input_ids: np.ndarray  # int64 [S]
    supervised: np.ndarray  # bool [S]
    plain: np.ndarray  # bool [S], as of an example, token by token
    soft: Soft | None = None  # of the item that is predicted


@dataclass(frozen=True)
class Example:
    """One training sequence of T tokens, and what goes on from places within it."""

    input_ids: np.ndarray  # int64 [T]
    supervised: np.ndarray  # bool [T], True = this token is to be predicted
    plain: bool = False  # True = out of the whole vocabulary; False = a code competes with those of its level alone
    branches: tuple[Branch, ...] = ()
    soft: Soft | None = None  # of every item that is predicted, codes alone being supervised

    @property
    def tokens(self) -> int:
        """Tokens of the sequence and of its branches."""
        return len(self.input_ids) + sum(len(branch.input_ids) for branch in self.branches)


def recommendation_frame(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Render the chat of the recommendation task up to the assistant's first word: int64 [F] token ids."""
    messages = [
        {"role": "system", "content": RECOMMENDATION_SYSTEM},
        {"role": "user", "content": RECOMMENDATION_USER},
    ]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return np.array(tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)


def recommendation_prompt(frame: np.ndarray, vocabulary: Vocabulary, history: np.ndarray) -> np.ndarray:
    """Token ids up to where the first code of the answer is next.

    Args:
        frame: the rendered chat.
        vocabulary: codes as tokens.
        history: int64 [h], RecBole item ids, oldest first.
    """
    return np.concatenate([frame, vocabulary.item_tokens[history - 1].reshape(-1)])


def recommendation_example(
    frame: np.ndarray, vocabulary: Vocabulary, window: np.ndarray, soft: Soft | None = None
) -> Example:
    """Make one example of consecutive items: every item but the first is predicted from those before it.

    Args:
        frame: the rendered chat.
        vocabulary: codes as tokens.
        window: int64 [h >= 2], RecBole item ids, oldest first.
        soft: what teachers say of the items that are predicted.
    """
    ids = recommendation_prompt(frame, vocabulary, window)
    supervised = ids >= vocabulary.first
    supervised[: len(frame) + vocabulary.item_tokens.shape[1]] = False  # nothing comes before the first item
    return Example(ids, supervised, soft=soft)
