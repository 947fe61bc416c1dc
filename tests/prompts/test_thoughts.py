import numpy as np
import pytest
import torch

from recbole_think.prompts.batching import IGNORED, Row, packed_batch
from recbole_think.prompts.tasks import Branch, Example, recommendation_frame
from recbole_think.prompts.thinking import all_words, given_thought, instructed_frame, thought_branch, thought_prompt
from tests.small import distinct_codes, plain_qwen, taught

PREFIX = [11, 12, 13]


def branch(at, ids, given=1):
    told = np.arange(len(ids)) >= given
    return Branch(at, np.array(ids), told, told & (np.arange(len(ids)) < 3))


def trunk(body, *branches):
    ids = np.array([*PREFIX, *body])
    return Example(ids, np.arange(len(ids)) > len(PREFIX), branches=branches)


ONE = trunk([21, 22, 23, 24], branch(5, [31, 32, 33]), branch(7, [41, 42, 43, 44]))
OTHER = trunk([25, 26], branch(5, [34, 35], given=2))


def test_branches_are_laid_out_behind_what_they_go_on_from():
    batch = packed_batch([Row((ONE, OTHER), len(PREFIX))], 0)
    assert batch["input_ids"][0].tolist() == [*PREFIX, 21, 22, 23, 24, 31, 32, 33, 41, 42, 43, 44, 25, 26, 34, 35]
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 7, 8, 9, 10, 3, 4, 5, 6]
    none = IGNORED
    assert batch["labels"][0].tolist() == [
        none, none, none, 22, 23, 24, none, 32, 33, none, 42, 43, 44, none, 26, none, none, none
    ]  # fmt: skip
    assert batch["plain"][0].nonzero().flatten().tolist() == [7, 8, 10, 11], "the third token on is no word"


def test_a_branch_sees_what_comes_before_its_place_and_is_seen_by_nothing_else():
    seen = packed_batch([Row((ONE, OTHER), len(PREFIX))], 0)["attention_mask"][0, 0] == 0
    assert seen[8].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 7, 8]
    assert seen[12].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12]
    assert seen[6].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert seen[17].nonzero().flatten().tolist() == [0, 1, 2, 14, 15, 16, 17]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_branch_is_understood_as_if_it_were_read_alone(attention):
    model = plain_qwen(50, attention=attention)
    batch = packed_batch([Row((ONE, OTHER), len(PREFIX))], 0)
    hidden = model.get_decoder()(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=batch["position_ids"]
    ).last_hidden_state[0]
    places = {(0, 0): slice(7, 10), (0, 1): slice(10, 14), (1, 0): slice(16, 18)}
    for (number, which), place in places.items():
        example = (ONE, OTHER)[number]
        one = example.branches[which]
        alone = np.concatenate([example.input_ids[: one.at], one.input_ids])
        wanted = model.get_decoder()(input_ids=torch.from_numpy(alone)[None]).last_hidden_state[0, one.at :]
        torch.testing.assert_close(hidden[place], wanted, atol=1e-5, rtol=1e-5)


def test_a_thought_is_learnt_to_its_end_and_an_empty_one_is_given():
    _, vocabulary = taught(distinct_codes(6, (3, 3)), (3, 3))
    opens, closes = vocabulary.marks
    codes = vocabulary.item_tokens[1].tolist()
    said = thought_branch(vocabulary, 9, [30, 31], 2)
    assert said.input_ids.tolist() == [opens, 30, 31, closes, *codes] and said.at == 9
    assert said.supervised.tolist() == [False, True, True, True, True, True]
    assert said.plain.tolist() == [True] * 4 + [False] * 2, "a code of the answer competes with those of its level"
    empty = thought_branch(vocabulary, 9, [], 2)
    assert empty.input_ids.tolist() == [opens, closes, *codes]
    assert empty.supervised.tolist() == [False, False, True, True]
    prompt = np.array([1, 2])
    assert thought_prompt(prompt, vocabulary).tolist() == [1, 2, opens]
    assert given_thought(prompt, [30], vocabulary).tolist() == [1, 2, opens, 30, closes]


def test_all_words_are_all_but_special_ones_and_the_end_is_among_them():
    _, vocabulary = taught(distinct_codes(6, (3, 3)), (3, 3))
    words = set(all_words(vocabulary).tolist())
    assert vocabulary.marks[1] in words and vocabulary.marks[0] not in words
    assert vocabulary.tokenizer.eos_token_id not in words and vocabulary.tokenizer.pad_token_id not in words
    assert set(torch.cat(vocabulary.code_tokens).tolist()) <= words
    assert len(words) > 250


def test_a_wish_stands_in_the_persons_turn_and_none_is_the_chat_as_it_was():
    _, vocabulary = taught(distinct_codes(6, (3, 3)), (3, 3))
    plain, wished = recommendation_frame(vocabulary.tokenizer), instructed_frame(vocabulary, "only cats")
    text = vocabulary.tokenizer.decode(wished)
    assert text.index("only cats") > text.index("user") and text.index("only cats") < text.index("assistant")
    assert vocabulary.tokenizer.decode(plain) == text.replace(" only cats", "")
