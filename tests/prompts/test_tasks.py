import itertools
from collections import Counter

import numpy as np
import pytest

from recbole_think.corpus.histories import from_pairs
from recbole_think.itemic.backbone import tiny
from recbole_think.prompts.tasks import (
    recommendation_example,
    recommendation_frame,
    recommendation_prompt,
    windows,
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
    assert Counter(frame.tolist())[start] == 3 and Counter(frame.tolist())[end] == 2, "turns are marked by real tokens"


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


def random_histories(lengths):
    """One user per length, every event an item of its own, so that a transition says where it comes from."""
    users = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return from_pairs(users, np.arange(1, len(users) + 1), len(lengths) + 1)


LENGTHS = [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 30, 47]


@pytest.mark.parametrize("longest", [2, 3, 4, 6, 50])
@pytest.mark.parametrize("seed", range(5))
def test_every_transition_is_in_exactly_one_window_and_no_window_is_too_long(longest, seed):
    histories = random_histories(LENGTHS)
    cut = list(windows(histories, longest, np.random.default_rng(seed)))
    found = Counter(pair for window in cut for pair in zip(window[:-1].tolist(), window[1:].tolist(), strict=True))
    wanted = Counter()
    for user in range(1, histories.n_users):
        history = histories.of(user).tolist()
        wanted.update(itertools.pairwise(history))
    assert found == wanted
    assert all(2 <= len(window) <= longest for window in cut)


def test_a_history_that_fits_is_one_window():
    histories = random_histories([4, 6])
    cut = sorted(window.tolist() for window in windows(histories, 6, np.random.default_rng(0)))
    assert cut == [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10]]


def test_windows_are_as_few_as_the_first_cut_allows():
    histories = random_histories([47])
    for seed in range(20):
        cut = list(windows(histories, 6, np.random.default_rng(seed)))
        lengths = sorted((w[0], len(w)) for w in cut)
        assert all(length == 6 for _, length in lengths[1:-1]), "only the first and the last may be short"


def test_epochs_cut_elsewhere_and_come_in_another_order_and_a_seed_repeats():
    histories = random_histories([30, 30, 30, 30])
    one, again, other = ([w.tolist() for w in windows(histories, 6, np.random.default_rng([7, e]))] for e in (0, 0, 1))
    assert one == again
    assert {tuple(w) for w in one} != {tuple(w) for w in other}
    assert one != sorted(one), "shuffled"
    firsts = {
        next(len(w) for w in windows(histories, 6, np.random.default_rng(seed)) if w[0] == 1) for seed in range(60)
    }
    assert firsts == {2, 3, 4, 5, 6}, "the first cut falls everywhere"


def test_the_padding_user_is_no_history():
    histories = from_pairs(np.array([0, 0, 0, 1, 1]), np.array([1, 2, 3, 4, 5]), 2)
    assert [w.tolist() for w in windows(histories, 5, np.random.default_rng(0))] == [[4, 5]]
