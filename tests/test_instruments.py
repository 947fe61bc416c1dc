from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_think.decoding.options import DecodeOptions
from recbole_think.instruments import Sample, bootstrap_p, citation_validity, measure, per_user
from recbole_think.prompts.rationale import encoded
from recbole_think.ranker import Thought
from tests.thinkers import N, thinker

OPTIONS = DecodeOptions(thoughts=3, thought_tokens=4, thought_beams=4, num_beams=4)


@pytest.fixture(scope="module")
def activated(tmp_path_factory):
    made = thinker(tmp_path_factory.mktemp("activated"))
    made.activation().run(made.context)
    made.context.model.eval()
    return made.ranker


def sample_of(ranker, users=N):
    histories = [np.array([1 + user % N]) for user in range(users)]
    targets = np.array([1 + (5 * user) % N for user in range(users)])
    return Sample(ranker.prompts(histories), histories, targets, lambda rows: None)


def test_metrics_of_one_user_are_those_of_the_rank():
    found = per_user([[7, 3, 9], [1, 2, 3], []], np.array([3, 8, 1]), [1, 2, 3], ["recall", "ndcg", "mrr"])
    assert found["recall@1"].tolist() == [0, 0, 0] and found["recall@2"].tolist() == [1, 0, 0]
    assert found["ndcg@3"] == pytest.approx([1 / np.log2(3), 0, 0]) and found["mrr@3"] == pytest.approx([0.5, 0, 0])


def test_a_difference_that_is_none_is_certain_of_nothing_and_a_clear_one_of_its_sign():
    dice = np.random.default_rng(0)
    one = dice.random(300)
    assert bootstrap_p(one, one, 0) == 1.0
    assert bootstrap_p(one + 0.2, one + 0.1 * dice.normal(size=300), 0) < 0.001
    noise = dice.normal(size=300)
    noise -= noise.mean()
    assert bootstrap_p(one + noise, one, 0) > 0.5
    gain = 0.02 + 0.2 * dice.normal(size=300)
    assert bootstrap_p(one + gain, one, 0) == pytest.approx(bootstrap_p(one, one + gain, 0), abs=0.02)


def test_an_item_named_counts_where_the_history_holds_it(activated):
    vocabulary, code = activated.vocabulary, int(activated.vocabulary.code_tokens[0][0])
    told = [
        [Thought(encoded((2, " red.", 3), vocabulary), True, [], []), Thought([code], True, [], [])],
        [Thought(encoded((2,), vocabulary), True, [], [])],
    ]
    sample = Sample([], [np.array([2, 5]), np.array([4])], np.array([1, 1]), lambda rows: None)
    assert citation_validity(activated, sample, told) == pytest.approx(1 / 4), "2 in the first; not 3, a stray code, 2"
    silent = [[Thought([], True, [], [])]] * 2
    assert citation_validity(activated, sample, silent) is None


def test_thinking_is_measured_by_the_very_lists_a_ranking_gives(activated):
    sample = sample_of(activated)
    found = measure(activated, sample, OPTIONS, torch.float32, [2, 4], seed=0)
    lists = activated.rank(sample.prompts, sample.mask_of, OPTIONS, torch.float32)
    wanted = per_user(lists, sample.targets, [2, 4], ["recall", "ndcg", "mrr"])
    assert found["thinking"] == pytest.approx({name: values.mean() for name, values in wanted.items()}, abs=1e-6)
    direct = activated.rank(sample.prompts, sample.mask_of, replace(OPTIONS, think=False, num_beams=12), torch.float32)
    twin = per_user(direct, sample.targets, [2, 4], ["recall"])
    assert found["twin"]["recall@4"] == pytest.approx(twin["recall@4"].mean(), abs=1e-6)
    assert found["candidates"] == {"thoughts": 3, "beams_each": 4, "twin_beams": 12}
    assert found["legality"] == 1.0 and found["n_users"] == N and found["cost_ratio"] > 0
    assert set(found["p_value"]) == {"ndcg@4", "recall@4"}
    assert found["thought_tokens"]["mean"] == pytest.approx(2, abs=0.5)
    assert 0 <= found["dll"]["share_positive"] <= 1


def test_thoughts_that_say_the_same_of_everybody_are_found_out(activated):
    constant = replace_words(activated, [int(activated.vocabulary.marks[1]), first_word(activated)])
    found = measure(constant, sample_of(constant, 48), OPTIONS, torch.float32, [4], seed=0)
    assert found["distinct_thoughts"] < 0.1
    assert any("hardly depend on the user" in note for note in found["notes"])


def test_a_thought_that_says_nothing_is_worth_what_another_users_is(activated):
    mute = replace_words(activated, [int(activated.vocabulary.marks[1])])
    found = measure(mute, sample_of(mute), OPTIONS, torch.float32, [4], seed=0)
    assert found["thought_tokens"]["mean"] == 0 and found["thinking"] == found["other_user"]
    assert set(found["p_value_other_user"].values()) == {1.0}
    assert any("another user's thoughts do as well" in note for note in found["notes"])


def first_word(ranker) -> int:
    return int(ranker.words[0])


def replace_words(ranker, words):
    """The same model, which may say nothing but ``words``: a policy whose thoughts are all alike."""
    return replace(ranker, words=torch.tensor(sorted(words)))
