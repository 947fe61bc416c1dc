"""Thoughts as token sequences: where one begins and ends, how it is learnt, and the words it may be made of.

A thought begins where the answer would: after the history, ``<think>`` rationale ``</think>``, then the item's codes.
In training it branches off the history it explains, so that one reading of a history carries many thoughts, each seen
by nothing else, and the history itself goes on being learnt as it is answered without thinking.
"""

from collections.abc import Sequence

import numpy as np

from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.alignment import MARK, chat, template_ids
from recbole_think.prompts.rationale import Pieces
from recbole_think.prompts.soft import Soft
from recbole_think.prompts.tasks import Branch, Example
from recbole_think.prompts.templates import BRIEFLY, ONLY, RECOMMENDATION_SYSTEM, RECOMMENDATION_USER


def thought_branch(
    vocabulary: Vocabulary, at: int, rationale: Sequence[int], target: int, soft: Soft | None = None
) -> Branch:
    """What goes on from a history: ``<think>`` (given), the rationale and its end, the target's codes (supervised).

    Args:
        vocabulary: codes as tokens.
        at: tokens of prompt and history before.
        rationale: token ids; none = an empty thought, which is not supervised: at inference it is given.
        target: RecBole id.
        soft: what teachers say of it.
    """
    opens, closes = vocabulary.marks
    codes = vocabulary.item_tokens[target - 1].tolist()
    thought = [opens, *rationale, closes]
    ids = np.array([*thought, *codes], dtype=np.int64)
    told = np.arange(len(ids)) < len(thought)
    supervised = ~told if not rationale else np.arange(len(ids)) > 0
    return Branch(at, ids, supervised, told, soft)


def thoughtful(example: Example, branches: Sequence[Branch], direct: bool) -> Example:
    """An example of the recommendation task with thoughts branching off it.

    Args:
        example: a window of a history.
        branches: of ``thought_branch``.
        direct: the items of the history itself stay supervised.
    """
    supervised = example.supervised if direct else np.zeros_like(example.supervised)
    return Example(example.input_ids, supervised, example.plain, tuple(branches), example.soft if direct else None)


def thought_prompt(prompt: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """A prompt up to where the first word of a thought is next."""
    return np.append(prompt, vocabulary.marks[0])


def given_thought(prompt: np.ndarray, thought: Sequence[int], vocabulary: Vocabulary) -> np.ndarray:
    """A prompt with a whole thought behind it: the first code is next."""
    opens, closes = vocabulary.marks
    return np.concatenate([prompt, np.array([opens, *thought, closes], dtype=np.int64)])


def taught_words(texts: Sequence[str], vocabulary: Vocabulary) -> np.ndarray:
    """Tokens a thought may be made of, where it only says what ``texts`` say: their words, the codes, the end.

    Returns:
        int64 [W], rising.
    """
    words = {token for text in texts for token in vocabulary.encode(text.strip(), lead=" ")}
    codes = [int(token) for level in vocabulary.code_tokens for token in level]
    return np.array(sorted({*words, *codes, vocabulary.marks[1]}), dtype=np.int64)


def all_words(vocabulary: Vocabulary) -> np.ndarray:
    """Tokens a thought may be made of, where it may say anything: all but special tokens, the codes, the end."""
    tokenizer, closes = vocabulary.tokenizer, vocabulary.marks[1]
    codes = {int(token) for level in vocabulary.code_tokens for token in level}
    never = ({*tokenizer.all_special_ids, vocabulary.marks[0]} - codes) - {closes}
    return np.array([token for token in range(len(tokenizer)) if token not in never], dtype=np.int64)


def plain_words(vocabulary: Vocabulary) -> np.ndarray:
    """Tokens an explanation may be made of: words, and the end of a turn; no codes, no marks. int64 [W], rising."""
    tokenizer = vocabulary.tokenizer
    never = {*tokenizer.all_special_ids, *vocabulary.marks} - {tokenizer.eos_token_id}
    return np.array([token for token in range(vocabulary.first) if token not in never], dtype=np.int64)


def instructed_frame(vocabulary: Vocabulary, instruction: str) -> np.ndarray:
    """The chat of the recommendation task with a wish of the person's behind their request: int64 token ids.

    Args:
        vocabulary: codes as tokens.
        instruction: words from outside, such as "only comedies" or "explain briefly".
    """
    before, after = chat(vocabulary.tokenizer, RECOMMENDATION_SYSTEM, f"{RECOMMENDATION_USER}{MARK}")
    parts = (
        template_ids(vocabulary.tokenizer, before),
        vocabulary.encode(instruction, lead=" "),
        template_ids(vocabulary.tokenizer, after),
    )
    return np.array([token for part in parts for token in part], dtype=np.int64)


def only(kind: str, pieces: Pieces, dice: np.random.Generator) -> tuple[str, Pieces]:
    """A wish for one kind of item, and a rationale that follows it: what it cites, and that kind."""
    cited = [piece for piece in pieces if not isinstance(piece, str)]
    return ONLY[dice.integers(len(ONLY))].format(kind=kind), (*cited, f" {kind}.")


def briefly(pieces: Pieces, dice: np.random.Generator) -> tuple[str, Pieces]:
    """A wish for few words, and a rationale that follows it: its first words."""
    text = " ".join(piece.strip() for piece in pieces if isinstance(piece, str))
    first = text.replace(".", ",").split(",")[0].strip()
    return BRIEFLY[dice.integers(len(BRIEFLY))], (f" {first}.",) if first else pieces[:1]
