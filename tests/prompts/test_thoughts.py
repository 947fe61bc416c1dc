import numpy as np
import pytest
import torch

from recbole_think.itemic.backbone import tiny
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import extend_tokenizer
from recbole_think.prompts.batching import IGNORED, Row, packed_batch, packed_rows
from recbole_think.prompts.tasks import Branch, Example, recommendation_example, recommendation_frame
from recbole_think.prompts.thinking import (
    all_words,
    given_thought,
    instructed_frame,
    taught_words,
    thought_branch,
    thought_prompt,
    thoughtful,
)
from tests.small import distinct_codes, plain_qwen, taught

N, SIZES = 12, (4, 4)
PREFIX, PAD = [11, 12, 13], 7


@pytest.fixture(scope="module")
def vocabulary():
    return taught(distinct_codes(N, SIZES, seed=3), SIZES)[1]


def branch(at, ids, supervised, plain):
    return Branch(at, np.array(ids), np.array(supervised, dtype=bool), np.array(plain, dtype=bool))


def trunk(body, *branches):
    supervised = [False] * (len(PREFIX) + 1) + [True] * (len(body) - 1)
    return Example(np.array([*PREFIX, *body]), np.array(supervised), branches=branches)


SHORT = branch(4, [31, 32, 33], [0, 1, 1], [1, 1, 0])
LONG = branch(6, [34, 35, 36, 37], [0, 0, 1, 1], [1, 1, 1, 0])
FIRST = branch(3, [38, 39], [0, 1], [0, 0])  # goes off from the prefix itself
A = trunk([21, 22, 23], SHORT, LONG)
B = trunk([41, 42], FIRST)
ROWS = [Row((A, B), 3), Row((trunk([51, 52, 53, 54]),), 3)]
NONE = IGNORED


def test_an_example_counts_its_branches_as_tokens_and_rows_are_filled_by_them():
    assert (A.tokens, B.tokens) == (6 + 3 + 4, 5 + 2)
    assert ROWS[0].tokens == 3 + 10 + 4
    assert [row.examples for row in packed_rows([A, B], 3, 17)] == [[A, B]]
    assert [row.examples for row in packed_rows([A, B], 3, 16)] == [[A], [B]]


def test_branches_stand_behind_their_example_and_count_on_from_where_they_go_off():
    batch = packed_batch(ROWS, PAD)
    assert batch["input_ids"].tolist() == [
        [11, 12, 13, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 38, 39],
        [11, 12, 13, 51, 52, 53, 54, *[PAD] * 10],
    ]
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 6, 6, 7, 8, 9, 3, 4, 3, 4]


def test_labels_of_a_branch_stand_within_it_and_its_first_token_is_given():
    labels = packed_batch(ROWS, PAD)["labels"][0].tolist()
    assert labels == [*[NONE] * 3, 22, 23, NONE, 32, 33, NONE, NONE, 36, 37, NONE, 42, NONE, 39, NONE]


def test_words_are_told_out_of_the_whole_vocabulary_and_codes_out_of_their_level_token_by_token():
    plain = packed_batch(ROWS, PAD)["plain"][0].int().tolist()
    assert plain == [*[0] * 6, 1, 0, 0, 1, 1, 0, 0, *[0] * 4], "as the label says, so at the place before the token"


def test_a_branch_sees_what_came_before_it_and_nothing_sees_a_branch():
    seen = packed_batch(ROWS, PAD)["attention_mask"][0, 0] == 0
    prefix = {0, 1, 2}
    places = {
        "A": ([3, 4, 5], prefix), "short": ([6, 7, 8], prefix | {3}), "long": ([9, 10, 11, 12], prefix | {3, 4, 5}),
        "B": ([13, 14], prefix), "first": ([15, 16], prefix),
    }  # fmt: skip
    for name, (own, before) in places.items():
        for number, reader in enumerate(own):
            wanted = before | set(own[: number + 1])
            assert set(seen[reader].nonzero()[:, 0].tolist()) == wanted, (name, number)
    assert not seen[:3, 3:].any()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shared", [3, 0])
@torch.no_grad()
def test_a_packed_branch_is_understood_as_it_is_behind_its_beginning_alone(attention, shared):
    model = plain_qwen(60, attention=attention)

    def understood(ids):
        return model.get_decoder()(input_ids=torch.as_tensor(ids)[None]).last_hidden_state[0]

    rows = [[A, B], [trunk([51, 52, 53, 54])], [B, A, A]]
    batch = packed_batch([Row(row, shared) for row in rows], PAD)
    hidden = model.get_decoder()(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=batch["position_ids"]
    ).last_hidden_state
    assert hidden.isfinite().all()
    for number, row in enumerate(rows):
        begin = shared
        for one in row:
            wanted = [understood(one.input_ids)[shared:]]
            for off in one.branches:
                whole = np.concatenate([one.input_ids[: off.at], off.input_ids])
                wanted.append(understood(whole)[off.at :])
            for part in wanted:
                found = hidden[number, begin : begin + len(part)]
                torch.testing.assert_close(found, part, atol=1e-5, rtol=1e-5)
                begin += len(part)


def test_a_branch_is_the_thought_in_its_marks_and_then_the_codes_of_the_target(vocabulary):
    opens, closes = vocabulary.marks
    codes = vocabulary.item_tokens[4].tolist()
    found = thought_branch(vocabulary, 9, [5, 6], 5)
    assert found.at == 9 and found.input_ids.tolist() == [opens, 5, 6, closes, *codes]
    assert found.supervised.tolist() == [False, True, True, True, True, True], "the opening mark is given"
    assert found.plain.tolist() == [True, True, True, True, False, False]


def test_an_empty_thought_is_not_supervised_but_the_codes_behind_it_are(vocabulary):
    opens, closes = vocabulary.marks
    found = thought_branch(vocabulary, 9, [], 5)
    assert found.input_ids.tolist() == [opens, closes, *vocabulary.item_tokens[4]]
    assert found.supervised.tolist() == [False, False, True, True]
    assert found.plain.tolist() == [True, True, False, False]
    batch = packed_batch([Row((Example(np.arange(9), np.zeros(9, dtype=bool), branches=(found,)),))], PAD)
    assert batch["labels"][0].tolist() == [*[NONE] * 10, *vocabulary.item_tokens[4], NONE]
    assert batch["plain"][0].nonzero()[:, 0].tolist() == [9], "of the closing mark, which has no label"


def test_the_history_goes_on_being_learnt_if_answers_without_a_thought_are_wanted(vocabulary):
    frame = recommendation_frame(vocabulary.tokenizer)
    window = recommendation_example(frame, vocabulary, np.array([3, 1, 2]))
    off = thought_branch(vocabulary, len(frame) + 4, [5], 2)
    both, thought_alone = thoughtful(window, [off], direct=True), thoughtful(window, [off], direct=False)
    for made in (both, thought_alone):
        assert made.branches == (off,) and np.array_equal(made.input_ids, window.input_ids)
        assert made.plain == window.plain
    assert np.array_equal(both.supervised, window.supervised) and window.supervised.sum() == 4
    assert not thought_alone.supervised.any()
    assert window.supervised.any() and not window.branches, "the window is left as it was"


def test_a_prompt_for_a_thought_ends_with_the_opening_mark_and_a_given_thought_with_the_closing_one(vocabulary):
    opens, closes = vocabulary.marks
    prompt = np.array([1, 2, 3])
    for made, wanted in [
        (thought_prompt(prompt, vocabulary), [1, 2, 3, opens]),
        (given_thought(prompt, [8, 9], vocabulary), [1, 2, 3, opens, 8, 9, closes]),
        (given_thought(prompt, [], vocabulary), [1, 2, 3, opens, closes]),
    ]:
        assert made.tolist() == wanted and made.dtype == np.int64
    assert prompt.tolist() == [1, 2, 3]


def test_at_inference_a_thought_is_read_as_the_branch_that_taught_it(vocabulary):
    prompt = np.array([1, 2, 3])
    off = thought_branch(vocabulary, 3, [8, 9], 2)
    read = given_thought(prompt, [8, 9], vocabulary)
    assert [*read, *vocabulary.item_tokens[1]] == [*prompt, *off.input_ids]


def test_taught_words_are_those_of_the_texts_the_codes_and_the_closing_mark(vocabulary):
    words = taught_words(["red box", " green"], vocabulary)
    codes = {int(token) for level in vocabulary.code_tokens for token in level}
    told = {*vocabulary.encode("red box", lead=" "), *vocabulary.encode("green", lead=" ")}
    assert set(words.tolist()) == told | codes | {vocabulary.marks[1]}
    assert (np.diff(words) > 0).all() and words.dtype == np.int64
    assert len(taught_words([], vocabulary)) == sum(SIZES) + 1


def test_all_words_are_every_token_but_special_ones_and_the_codes_and_the_closing_mark_stay(vocabulary):
    tokenizer, (opens, closes) = vocabulary.tokenizer, vocabulary.marks
    words = all_words(vocabulary)
    codes = [int(token) for level in vocabulary.code_tokens for token in level]
    left_out = set(range(len(tokenizer))) - set(words.tolist())
    specials = {tokenizer.convert_tokens_to_ids(name) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
    assert left_out == specials | {opens}
    assert set(codes) <= set(words.tolist()) and closes in words
    assert (np.diff(words) > 0).all() and words.dtype == np.int64


def test_a_backbone_with_marks_of_its_own_may_close_a_thought_and_not_open_another():
    codes = Codes(distinct_codes(N, SIZES, seed=3), SIZES)
    for special in (True, False):
        _, tokenizer = tiny(["text"])
        tokenizer.add_tokens(["<think>", "</think>"], special_tokens=special)
        if special:
            tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
        own = extend_tokenizer(tokenizer, codes)
        assert max(own.marks) < own.first and (own.marks[1] in tokenizer.all_special_ids) == special
        words = set(all_words(own).tolist())
        assert own.marks[0] not in words and own.marks[1] in words
        assert {int(token) for level in own.code_tokens for token in level} <= words


def test_codes_stay_sayable_where_the_tokenizer_lists_them_as_special():
    _, tokenizer = tiny(["text"])
    own = extend_tokenizer(tokenizer, Codes(distinct_codes(N, SIZES, seed=3), SIZES))
    tokenizer.add_special_tokens({"additional_special_tokens": [*tokenizer.convert_ids_to_tokens(own.code_tokens[0])]})
    assert set(own.code_tokens[0].tolist()) <= set(tokenizer.all_special_ids)
    assert set(own.code_tokens[0].tolist()) <= set(all_words(own).tolist())


def test_a_wish_stands_in_the_persons_turn_and_the_chat_is_else_as_it_was():
    _, vocabulary = taught(distinct_codes(6, (3, 3)), (3, 3))
    plain, wished = recommendation_frame(vocabulary.tokenizer), instructed_frame(vocabulary, "only cats")
    text = vocabulary.tokenizer.decode(wished)
    assert text.index("user") < text.index("only cats") < text.index("assistant")
    assert vocabulary.tokenizer.decode(plain) == text.replace(" only cats", "")
