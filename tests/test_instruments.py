import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_think.decoding.exact import score_items
from recbole_think.decoding.options import DecodeOptions
from recbole_think.errors import InputError
from recbole_think.instruments import (
    InstrumentOptions,
    Sample,
    citation_validity,
    gains,
    measure,
    notes,
    per_user,
)
from recbole_think.itemic.codes import Codes
from recbole_think.paired import bootstrap_p
from recbole_think.prompts.batching import prompt_batch
from recbole_think.prompts.thinking import all_words, given_thought
from recbole_think.ranker import Ranker, Thought
from tests.small import distinct_codes, taught

N, SIZES, USERS = 14, (4, 4), 23
TABLE = distinct_codes(N, SIZES, seed=3)
OPTIONS = DecodeOptions(thoughts=3, thought_tokens=5, thought_beams=4, num_beams=11, tokens_per_batch=900)
TOPK = [1, 3, 10]


def ranker_saying(words=None, strength=12) -> Ranker:
    """A ranker of a random model, whose thoughts are made of ``words`` and the closing mark; None = of anything.

    ``strength`` of its layers: how much what came before the last token counts.
    """
    model, vocabulary = taught(TABLE, SIZES, seed=5)
    with torch.no_grad():
        for value in model.get_decoder().layers.parameters():
            if value.ndim == 2:
                value *= strength
    if words is None:
        only = all_words(vocabulary)
    else:
        only = sorted({vocabulary.marks[1], *(vocabulary.encode(word, lead=" ")[0] for word in words)})
    return Ranker(model, vocabulary, Codes(TABLE, SIZES), 5, torch.as_tensor(only), seed=1)


def sample_of(ranker) -> Sample:
    dice = np.random.default_rng(0)
    histories = [dice.choice(np.arange(1, N + 1), dice.integers(1, 5), replace=False) for _ in range(USERS)]
    targets = np.array([dice.choice(np.setdiff1d(np.arange(1, N + 1), history)) for history in histories])

    def mask_of(rows):
        mask = torch.zeros(len(rows), N, dtype=torch.bool)
        for place, row in enumerate(rows):
            mask[place, torch.from_numpy(histories[row] - 1)] = True
        return mask

    return Sample(ranker.prompts(histories), histories, targets, mask_of)


@functools.cache
def measured(*words, **given):
    """A measurement, and what it was made with; no words = thoughts of anything."""
    ranker = ranker_saying(words or None)
    sample, options = sample_of(ranker), replace(OPTIONS, **given)
    return measure(ranker, sample, options, torch.float32, TOPK, seed=0), ranker, sample, options


def mean_metrics(ranked, sample):
    found = per_user(ranked, sample.targets, TOPK, ("recall", "ndcg", "mrr"))
    return {name: pytest.approx(values.mean(), abs=1e-6) for name, values in found.items()}


def test_metrics_of_each_user_are_those_of_the_rank_of_the_target():
    ranked = [[5, 3, 9], [3, 5], [9, 3, 1, 5], [9], []]
    found = per_user(ranked, np.full(5, 5), [1, 3, 10], ("recall", "ndcg", "mrr"))
    assert list(found) == [f"{metric}@{k}" for metric in ("recall", "ndcg", "mrr") for k in (1, 3, 10)]
    by_hand = {
        "recall@1": [1, 0, 0, 0, 0], "recall@3": [1, 1, 0, 0, 0], "recall@10": [1, 1, 1, 0, 0],
        "ndcg@1": [1, 0, 0, 0, 0], "ndcg@3": [1, 1 / math.log2(3), 0, 0, 0],
        "ndcg@10": [1, 1 / math.log2(3), 1 / math.log2(5), 0, 0],
        "mrr@1": [1, 0, 0, 0, 0], "mrr@3": [1, 1 / 2, 0, 0, 0], "mrr@10": [1, 1 / 2, 1 / 4, 0, 0],
    }  # fmt: skip
    for name, wanted in by_hand.items():
        np.testing.assert_allclose(found[name], wanted, err_msg=name)


def test_users_without_any_difference_have_a_p_of_1():
    scores = np.random.default_rng(0).random(50)
    assert bootstrap_p(scores, scores.copy(), seed=0) == 1.0


def test_a_clear_difference_has_as_small_a_p_as_the_resamples_can_tell():
    scores = np.random.default_rng(0).random(50)
    assert bootstrap_p(scores + 0.5, scores, seed=0) == pytest.approx(2 / 10_001)


def test_p_is_the_same_whichever_is_called_the_other():
    dice = np.random.default_rng(0)
    one, other = dice.random(80), dice.random(80) + 0.05
    assert bootstrap_p(one, other, seed=3) == pytest.approx(bootstrap_p(other, one, seed=3), abs=1e-12)
    assert bootstrap_p(one, other, seed=3) == bootstrap_p(one, other, seed=3) != bootstrap_p(one, other, seed=4)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1, 0.2])
def test_p_is_near_that_of_the_normal_distribution_for_many_users(shift):
    gain = np.random.default_rng(1).normal(size=400)
    gain = (gain - gain.mean()) / gain.std() + shift
    wanted = math.erfc(shift * math.sqrt(400) / math.sqrt(2))
    assert bootstrap_p(gain, np.zeros(400), seed=0) == pytest.approx(wanted, abs=0.02)


def test_citations_are_valid_where_the_history_holds_what_is_named():
    ranker = ranker_saying()
    vocabulary = ranker.vocabulary
    word = vocabulary.encode("red box", lead=" ")
    sample = Sample([], [np.array([1, 2]), np.array([3])], np.array([9, 9]), lambda rows: None)

    def thought(*pieces):
        ids = [t for piece in pieces for t in (piece if isinstance(piece, list) else vocabulary.item_tokens[piece - 1])]
        return Thought([int(token) for token in ids], True, [], [])

    broken = [int(vocabulary.code_tokens[1][0])]  # a second code without a first
    none = [[thought(word), thought()], [thought(word), thought()]]
    assert citation_validity(ranker, sample, none) is None
    named = [[thought(1, word, 2), thought(word, 3)], [thought(3, 3, word), thought(1)]]
    assert citation_validity(ranker, sample, named) == pytest.approx(4 / 6)
    in_vain = [[thought(1, broken, word), thought()], [thought(broken), thought(word)]]
    assert citation_validity(ranker, sample, in_vain) == pytest.approx(1 / 3)
    first, third = ([int(vocabulary.item_tokens[item - 1, 0])] for item in (1, 3))
    assert first != third, "a group the second user has nothing of"
    groups = [[thought(first, word), thought(word)], [thought(word, third), thought(3, first)]]
    assert citation_validity(ranker, sample, groups) == pytest.approx(3 / 4)


def found_with(**given):
    names = ("ndcg@10", "recall@10")
    plain = {
        "thinking": dict.fromkeys(names, 0.3), "twin": dict.fromkeys(names, 0.2), "distinct_thoughts": 0.9,
        "p_value": dict.fromkeys(names, 0.01), "p_value_other_user": dict.fromkeys(names, 0.01),
        "dll": {"mean": 0.1, "standard_error": 0.01},
    }  # fmt: skip
    return {**plain, **given}


def test_notes_say_whether_thinking_helps_or_hurts_and_only_where_the_difference_is_clear():
    assert notes(found_with()) == [
        f"{name}: thinking helps (+0.1000, p = 0.010)" for name in ("ndcg@10", "recall@10")
    ]  # fmt: skip
    worse = found_with(twin={"ndcg@10": 0.45, "recall@10": 0.1}, p_value={"ndcg@10": 0.05, "recall@10": 0.051})
    assert notes(worse) == [
        "ndcg@10: thinking hurts (-0.1500, p = 0.050)",
        "recall@10: no difference from the twin without (+0.2000, p = 0.051)",
    ]


@pytest.mark.parametrize(("distinct", "said"), [(0.01, True), (0.1, True), (0.11, False)])
def test_notes_flag_thoughts_that_are_hardly_distinct(distinct, said):
    for another, meaning in ((0.5, ": they hardly depend on the user"), (0.001, ", yet another user's do worse")):
        p_values = {"ndcg@10": another, "recall@10": another}
        told = notes(found_with(distinct_thoughts=distinct, p_value_other_user=p_values))
        assert (f"only {distinct:.1%} of the thoughts are distinct{meaning}" in told) == said


@pytest.mark.parametrize(("ndcg", "recall", "said"), [(1.0, 1.0, True), (0.06, 0.2, True), (0.05, 0.9, False)])
def test_notes_flag_that_another_users_thoughts_do_as_well(ndcg, recall, said):
    told = notes(found_with(p_value_other_user={"ndcg@10": ndcg, "recall@10": recall}))
    assert any("another user's thoughts do as well" in note for note in told) == said


@pytest.mark.parametrize(("mean", "said"), [(-0.021, True), (-0.019, False), (0.5, False)])
def test_notes_flag_a_true_item_that_thinking_makes_clearly_less_likely(mean, said):
    told = notes(found_with(dll={"mean": mean, "standard_error": 0.01}))
    assert any("less likely than without" in note for note in told) == said


@pytest.mark.parametrize("words", [(), ("red",)], ids=["never a word", "one word"])
def test_a_policy_of_constant_thoughts_is_found_out(words):
    ranker = ranker_saying(words, strength=1)
    embedding, vocabulary = ranker.language_model.get_input_embeddings(), ranker.vocabulary
    opens, closes = (mark - vocabulary.first for mark in vocabulary.marks)
    with torch.no_grad():  # after <think> and after the word the word is likely, and never the end
        said = embedding.text.weight[vocabulary.encode("red", lead=" ")[0]]
        embedding.rows[opens], embedding.rows[closes] = said, -said
    sample, options = sample_of(ranker), replace(OPTIONS, temperature=1e-5)
    found = measure(ranker, sample, options, torch.float32, TOPK, seed=0)
    every = ranker.think(sample.prompts, sample.mask_of, options, torch.float32)
    [said] = {tuple(one.ids) for of_user in every for one in of_user}
    assert bool(said) == bool(words), "the world is as the test says"
    assert found["distinct_thoughts"] == pytest.approx(1 / (USERS * 3))
    assert found["p_value_other_user"] == {"ndcg@10": 1.0, "recall@10": 1.0}
    assert found["other_user"] == found["thinking"]
    assert sum("hardly depend on the user" in note for note in found["notes"]) == 1
    assert sum("another user's thoughts do as well" in note for note in found["notes"]) == 1
    if not words:
        for name in ("recall@1", "recall@3", "ndcg@3", "mrr@3"):  # lists of four, the twin's go on behind them
            assert found["empty"][name] == found["thinking"][name]
        assert found["thought_tokens"] == {"mean": 0.0, "p95": 0.0} and found["closed"] == 1.0


def test_thinking_is_measured_on_the_very_lists_the_ranker_makes():
    found, ranker, sample, options = measured()
    ranked = ranker.rank(sample.prompts, sample.mask_of, options, torch.float32)
    assert found["thinking"] == mean_metrics(ranked, sample)
    assert found["thinking"] != found["twin"] and found["n_users"] == USERS


def test_the_twins_have_as_many_candidates_and_differ_in_the_thought_alone():
    found, ranker, sample, options = measured()
    assert found["candidates"] == {"thoughts": 3, "beams_each": 4, "twin_beams": 12}
    direct = replace(options, think=False, num_beams=12)
    assert found["twin"] == mean_metrics(ranker.rank(sample.prompts, sample.mask_of, direct, torch.float32), sample)
    closed = [given_thought(prompt, [], ranker.vocabulary) for prompt in sample.prompts]
    assert found["empty"] == mean_metrics(ranker.rank(closed, sample.mask_of, direct, torch.float32), sample)
    thoughts = ranker.think(sample.prompts, sample.mask_of, options, torch.float32)
    others = [[one.ids for one in of_user] for of_user in [*thoughts[1:], thoughts[0]]]
    after = ranker.rank_after(sample.prompts, others, sample.mask_of, options, torch.float32)
    assert found["other_user"] == mean_metrics(after, sample)
    assert found["other_user"] != found["thinking"]


def test_the_gain_in_likelihood_is_that_of_the_target_read_anew_after_every_thought():
    found, ranker, sample, options = measured()
    pad = ranker.vocabulary.tokenizer.pad_token_id

    def told(prompts, target):
        every = score_items(
            ranker.language_model, *prompt_batch(prompts, pad), ranker.trie, ranker.vocabulary.code_tokens, "level"
        )
        return every[:, int(target) - 1].double().numpy()

    found_gains, lost = [], []
    thoughts = ranker.think(sample.prompts, sample.mask_of, options, torch.float32)
    for prompt, target, of_user in zip(sample.prompts, sample.targets, thoughts, strict=True):
        behind = [given_thought(prompt, one.ids, ranker.vocabulary) for one in of_user]
        after = told(behind, target)
        found_gains.append(after.mean() - told([prompt], target)[0])
        lost.append(np.log(np.exp(after).mean()) - after.mean())
    each = np.array(found_gains)
    assert np.mean(lost) > 1e-4, "a choice among thoughts is worth something in this world"
    assert found["dll"]["headroom"] == pytest.approx(np.mean(lost), rel=1e-3)
    assert found["dll"]["mean"] == pytest.approx(each.mean(), abs=1e-4)
    assert found["dll"]["standard_error"] == pytest.approx(each.std(ddof=1) / math.sqrt(USERS), abs=1e-4)
    assert found["dll"]["share_positive"] == pytest.approx((each > 0).mean())


def test_the_figures_about_thoughts_are_those_of_the_thoughts_of_the_ranker():
    found, ranker, sample, options = measured("red", "box", thought_tokens=30)
    thoughts = ranker.think(sample.prompts, sample.mask_of, options, torch.float32)
    every = [one for of_user in thoughts for one in of_user]
    lengths = [len(one.ids) for one in every]
    assert len(set(lengths)) > 5
    assert found["thought_tokens"]["mean"] == pytest.approx(np.mean(lengths))
    assert found["thought_tokens"]["p95"] == pytest.approx(np.percentile(lengths, 95))
    assert found["closed"] == pytest.approx(np.mean([one.closed for one in every]))
    assert found["distinct_thoughts"] == pytest.approx(len({tuple(one.ids) for one in every}) / len(every))
    assert found["citation_validity"] == citation_validity(ranker, sample, thoughts)
    assert found["legality"] == 1.0 and found["cost_ratio"] > 0


def test_answers_counted_before_are_no_part_of_the_legality():
    ranker = ranker_saying()
    sample = sample_of(ranker)
    ranker.count(1000, 1000)
    assert measure(ranker, sample, OPTIONS, torch.float32, TOPK, seed=0)["legality"] == 1.0


def test_p_values_are_those_of_the_lists_at_10_or_at_the_longest_there_is():
    found, ranker, sample, options = measured()
    assert set(found["p_value"]) == set(found["p_value_other_user"]) == {"ndcg@10", "recall@10"}
    short = measure(ranker, sample, options, torch.float32, [1, 3], seed=0)
    assert set(short["p_value"]) == {"ndcg@3", "recall@3"}
    longer = measure(ranker, sample, options, torch.float32, [1, 10, 12], seed=0)
    assert longer["p_value"] == found["p_value"]
    one = per_user(ranker.rank(sample.prompts, sample.mask_of, options, torch.float32), sample.targets, [3], ["ndcg"])
    direct = replace(options, think=False, num_beams=12)
    other = per_user(ranker.rank(sample.prompts, sample.mask_of, direct, torch.float32), sample.targets, [3], ["ndcg"])
    assert short["p_value"]["ndcg@3"] == bootstrap_p(one["ndcg@3"], other["ndcg@3"], 0)
    gain = short["gain"]["ndcg@3"]
    assert gain["mean"] == pytest.approx((one["ndcg@3"] - other["ndcg@3"]).mean())
    assert gain["low"] < gain["mean"] < gain["high"]


def test_the_interval_of_a_gain_holds_95_percent_of_what_other_users_might_have_shown():
    dice = np.random.default_rng(0)
    other = dice.normal(size=2000)
    found = gains({"ndcg@10": other + dice.normal(0.1, 1.0, 2000), "recall@10": other}, dict.fromkeys(
        ("ndcg@10", "recall@10"), other), [10], seed=0)  # fmt: skip
    normal = 1.96 / math.sqrt(2000)
    assert found["ndcg@10"]["high"] - found["ndcg@10"]["mean"] == pytest.approx(normal, rel=0.1)
    assert found["ndcg@10"]["mean"] - found["ndcg@10"]["low"] == pytest.approx(normal, rel=0.1)
    assert found["recall@10"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_what_is_measured_is_measured_again_alike():
    found, ranker, sample, options = measured()
    again = measure(ranker, sample, options, torch.float32, TOPK, seed=0)
    assert {**again, "cost_ratio": 0} == {**found, "cost_ratio": 0}


def test_fewer_users_than_none_are_refused():
    with pytest.raises(InputError, match=r"instruments\.users must be 0 \(all\) or at least 2, got -1"):
        InstrumentOptions(users=-1)
