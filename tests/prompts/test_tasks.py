import numpy as np
import pytest

from recbole_think.itemic.backbone import tiny
from recbole_think.prompts.tasks import (
    recommendation_example,
    recommendation_frame,
    recommendation_prompt,
)
from recbole_think.prompts.templates import RECOMMENDATION_SYSTEM, RECOMMENDATION_USER
from tests.small import distinct_codes, taught

SIZES = (4, 4, 4)
TABLE = distinct_codes(12, SIZES)


@pytest.fixture(scope="module")
def vocabulary():
    return taught(TABLE, SIZES)[1]


def test_the_frame_is_the_chat_up_to_the_assistants_first_word():
    _, tokenizer = tiny(["some words"])
    frame = recommendation_frame(tokenizer)
    assert frame.dtype == np.int64 and frame.ndim == 1
    assert tokenizer.decode(frame) == (
        f"<|im_start|>system\n{RECOMMENDATION_SYSTEM}<|im_end|>\n"
        f"<|im_start|>user\n{RECOMMENDATION_USER}<|im_end|>\n<|im_start|>assistant\n"
    )
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert frame.tolist().count(start) == 3 and frame.tolist().count(end) == 2, "turns are marked by real tokens"


def test_a_tokenizer_that_adds_a_first_token_of_its_own_does_not_double_it():
    from tokenizers.processors import TemplateProcessing

    _, tokenizer = tiny(["some words"])
    plain = recommendation_frame(tokenizer)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    assert tokenizer.encode("x")[0] == start, "the tokenizer now adds a token"
    assert recommendation_frame(tokenizer).tolist() == plain.tolist()


def test_a_prompt_is_the_frame_and_the_codes_of_the_history_in_order(vocabulary):
    frame = recommendation_frame(vocabulary.tokenizer)
    prompt = recommendation_prompt(frame, vocabulary, np.array([3, 1, 12, 3]))
    spelt = [
        f"<{letter}_{code}>" for item in (3, 1, 12, 3) for letter, code in zip("abc", TABLE[item - 1], strict=True)
    ]
    assert prompt[: len(frame)].tolist() == frame.tolist()
    assert vocabulary.tokenizer.convert_ids_to_tokens(prompt[len(frame) :].tolist()) == spelt


def test_a_prompt_of_an_empty_history_is_the_frame(vocabulary):
    frame = recommendation_frame(vocabulary.tokenizer)
    prompt = recommendation_prompt(frame, vocabulary, np.array([], dtype=np.int64))
    assert prompt.tolist() == frame.tolist() and prompt.dtype == np.int64


def test_an_example_supervises_exactly_every_item_but_the_first(vocabulary):
    frame = recommendation_frame(vocabulary.tokenizer)
    example = recommendation_example(frame, vocabulary, np.array([5, 2, 5, 7]))
    assert len(example.input_ids) == len(example.supervised) == len(frame) + 4 * 3
    assert example.supervised.tolist() == [False] * (len(frame) + 3) + [True] * 9


def test_an_example_is_read_as_the_prompt_is_when_it_is_answered(vocabulary):
    frame = recommendation_frame(vocabulary.tokenizer)
    history = np.array([5, 2, 7, 9])
    example = recommendation_example(frame, vocabulary, history)
    for known in range(1, 4):
        prompt = recommendation_prompt(frame, vocabulary, history[:known])
        assert example.input_ids[: len(prompt)].tolist() == prompt.tolist()
        answer = example.input_ids[len(prompt) : len(prompt) + 3]
        assert answer.tolist() == vocabulary.item_tokens[history[known] - 1].tolist()
        assert example.supervised[len(prompt) : len(prompt) + 3].all()
