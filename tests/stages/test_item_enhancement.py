"""A policy that names items without a thought, in a world where item 3 comes next whatever came before."""

import itertools
from unittest import mock

import numpy as np
import pytest
import torch

from recbole_think.corpus.histories import from_pairs, without_last
from recbole_think.decoding.exact import score_items
from recbole_think.errors import InputError
from recbole_think.prompts.batching import prompt_batch
from recbole_think.stages import grpo
from recbole_think.stages.grpo import RewardTrainer
from recbole_think.stages.item_enhancement import ItemEnhancement
from recbole_think.stages.item_rollout import ItemRollout
from recbole_think.stages.reinforcement import ItemEnhancementOptions
from recbole_think.stages.rollout import Asked
from recbole_think.stages.stage import run_stages
from tests.thinkers import MAX_HISTORY, N, killed_after_one, thinker

NEXT = 3  # RecBole id
SHOWN, UNSHOWN = (1, 2, 4, 5, 6, 7, 8), (9, 10, 11, 12)  # items before it in training, and never


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ways(firsts=SHOWN, then=NEXT, copies=4):
    """Histories of two items."""
    users = np.repeat(np.arange(1, len(firsts) * copies + 1), 2)
    items = np.array([[first, then] for first in firsts] * copies).reshape(-1)
    return from_pairs(users, items, len(firsts) * copies + 1)


def policy(folder, histories=None, **more):
    """A policy that has learnt nothing; validated by how likely it says what comes next after items of training."""
    made = thinker(folder, histories=ways() if histories is None else histories, **more)
    if "validate" not in more:
        made.context.validate = lambda users, think: likelihood(made, SHOWN)
    return made


def stage(made, mask_history=False, fresh=None, **more):
    options = ItemEnhancementOptions(
        **{
            "steps": 12, "prompts": 8, "beams": 6, "learning_rate": 1e-2, "warmup": 0.0, "kl": 0.0, "validations": 1,
            "checkpoints": 0, "precision": "float32", "fresh": fresh is not None, **more,
        }
    )  # fmt: skip
    return ItemEnhancement(options, made.ranker.trie, MAX_HISTORY, mask_history, fresh)


def scores(made, firsts):
    """Exact log-probability of every item after one item: float32 [len(firsts), N]."""
    ids, mask = prompt_batch(made.ranker.prompts([np.array([first]) for first in firsts]), 0)
    made.context.model.eval()
    return score_items(
        made.context.model, ids, mask, made.ranker.trie, made.context.vocabulary.code_tokens, normalize="level"
    )


def likelihood(made, firsts):
    return float(scores(made, firsts)[:, NEXT - 1].mean())


def weights(made):
    return {name: value.detach().clone() for name, value in made.context.model.named_parameters()}


def curve_of(outcome, name):
    return [row[name] for row in outcome.curve if name in row]


@pytest.mark.parametrize("lora_rank", [0, 8])
@pytest.mark.parametrize("weighed", [{}, {"rank": 0.0}])
def test_what_is_rewarded_becomes_likelier_after_histories_never_seen(tmp_path, lora_rank, weighed):
    made = policy(tmp_path)
    before = scores(made, UNSHOWN)
    outcome = stage(made, lora_rank=lora_rank, **weighed).run(made.context)
    after = scores(made, UNSHOWN)
    assert (after[:, NEXT - 1] > before[:, NEXT - 1] + 0.5).all()
    assert (after.argmax(1) == NEXT - 1).all()
    assert np.mean(curve_of(outcome, "hit_rate")[-3:]) == 1.0


def test_the_control_that_learns_nothing_stays_as_it_was(tmp_path):
    made = policy(tmp_path)
    before = weights(made)
    outcome = stage(made, learning_rate=0.0, kl=0.1, steps=4).run(made.context)
    for name, value in made.context.model.named_parameters():
        assert torch.equal(value, before[name]), name
    assert max(curve_of(outcome, "kl")) == pytest.approx(0, abs=1e-7)


def test_rows_of_words_and_codes_stay_as_they_are(tmp_path):
    later = itertools.count()
    made = policy(tmp_path, validate=lambda users, think: next(later))
    before = weights(made)
    stage(made, steps=2).run(made.context)
    moved = {name for name, value in made.context.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved and not any("embed" in name or "lm_head" in name for name in moved)


def test_completions_are_the_likeliest_items_and_their_log_probabilities_those_of_exact_scoring(tmp_path):
    made, seen = policy(tmp_path), []

    class Spy(RewardTrainer):
        def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, **more):
            found = super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **more)
            seen.append((input_ids, logits_to_keep, found[0].detach(), found[1]))
            return found

    with torch.no_grad():  # codes that a softmax over all words and codes would prefer
        made.context.model.get_output_embeddings().text.weight.mul_(20)
    exact = scores(made, SHOWN)
    with mock.patch.object(grpo, "RewardTrainer", Spy):
        stage(made, steps=1, prompts=7, learning_rate=0.0).run(made.context)
    [(ids, longest, log_probs, entropy)] = seen
    dialect = stage_dialect(made, 7)
    by_codes = {tuple(tokens): row for row, tokens in enumerate(made.context.vocabulary.item_tokens.tolist())}
    told = dialect[ids[:, -longest - 2 :].numpy()].reshape(-1, 2, 2).tolist()  # [row, (history, answer), level]
    shown, items = ([by_codes[tuple(row[place])] for row in told] for place in (0, 1))
    rows = [SHOWN.index(row + 1) for row in shown]  # the trainer shuffles them
    torch.testing.assert_close(log_probs.sum(-1), exact[rows, items], atol=1e-5, rtol=1e-5)
    for row in set(rows):  # the same history may be asked twice
        listed = {item for of, item in zip(rows, items, strict=True) if of == row}
        assert listed == set(exact[row].topk(6).indices.tolist())
    assert (entropy >= 0).all() and (entropy[:, 0] <= np.log(2) + 1e-5).all(), "of two first codes"
    first = log_probs[:, 0].exp()
    by_hand = -(first * first.log() + (1 - first) * (1 - first).log())
    torch.testing.assert_close(entropy[:, 0], by_hand, atol=1e-5, rtol=1e-4)


def stage_dialect(made, prompts):
    """Tokens of the whole vocabulary by id of the dialect of the stage above, padding last."""
    from recbole_think.stages.dialect import dialect_of

    vocabulary = made.context.vocabulary
    asked = made.ranker.prompts([np.array([first]) for first in SHOWN])
    return np.append(dialect_of(*asked, *vocabulary.code_tokens, vocabulary.marks).tokens, -1)


def test_a_step_tells_what_one_wants_to_know_of_it(tmp_path):
    made = policy(tmp_path)
    outcome = stage(made, steps=2, kl=0.1).run(made.context)
    told = set().union(*(row for row in outcome.curve))
    assert {
        "reward", "reward_spread", "groups_without_signal", "hit_rate", "kl", "entropy", "rollout_seconds",
        "step_seconds", "valid",
    } <= told  # fmt: skip
    assert "rationale_tokens" not in told
    [first, second] = curve_of(outcome, "kl")
    assert first == pytest.approx(0, abs=1e-5) and second > 0, "the reference is the policy as it began"
    assert outcome.figures["rewards"] == {"hit": 1.0, "rank": 1.0}


def test_the_mean_reward_is_that_of_lists_made_by_hand(tmp_path):
    made = policy(tmp_path)
    ranks = (scores(made, SHOWN) > scores(made, SHOWN)[:, NEXT - 1 : NEXT]).sum(1).tolist()
    discounts = 1 / np.log2(np.arange(6) + 2)
    per_list = [1 - (1 - discounts[rank] / discounts.sum()) if rank < 6 else 0.0 for rank in ranks]
    outcome = stage(made, steps=1, prompts=28).run(made.context)  # every place once
    assert curve_of(outcome, "reward") == pytest.approx([np.mean(per_list) / 6], abs=1e-5)
    assert curve_of(outcome, "hit_rate") == pytest.approx([np.mean([rank < 6 for rank in ranks])])


def test_lists_made_without_thinking_choose_the_weights_those_of_the_beginning_among_them(tmp_path):
    asked = []

    def validate(users, think):
        asked.append((users, think))
        return 0.9 if len(asked) == 1 else 0.2

    made = policy(tmp_path, validate=validate)
    before = weights(made)
    outcome = stage(made, steps=2, valid_users=7).run(made.context)
    assert asked == [(7, False)] * 2 and outcome.best_score == 0.9
    for name, value in made.context.model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_a_run_that_was_cut_goes_on_to_the_same_weights(tmp_path):
    whole = policy(tmp_path / "whole")
    [row] = run_stages([stage(whole, steps=4, checkpoints=1, kl=0.01)], whole.context)
    cut = policy(tmp_path / "cut")
    cut.context.validate = killed_after_one(cut.context.validate)
    with pytest.raises(KeyboardInterrupt):
        run_stages([stage(cut, steps=4, checkpoints=1, kl=0.01)], cut.context)
    assert list((tmp_path / "cut" / "item_enhancement" / "checkpoints").glob("checkpoint-2/complete"))
    again, validated = policy(tmp_path / "cut"), []
    validate_again = again.context.validate
    again.context.validate = lambda *given: validated.append(given) or validate_again(*given)
    [resumed] = run_stages([stage(again, steps=4, checkpoints=1, kl=0.01)], again.context)
    for (name, one), other in zip(
        whole.context.model.named_parameters(), again.context.model.parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    assert resumed["digest"] == row["digest"]
    assert len(validated) == 1, "it began where it was cut: the weights of the beginning were not judged again"
    assert any(not torch.equal(value, other) for value, other in zip(
        whole.context.model.parameters(), policy(tmp_path / "new").context.model.parameters(), strict=True
    )), "it learnt something"  # fmt: skip


def test_no_list_names_what_its_history_holds_where_histories_are_masked(tmp_path):
    made, found = policy(tmp_path), []
    real = ItemRollout.follow

    def spy(self, model, numbers, step):
        found.append(([self.asked[number] for number in numbers], real(self, model, numbers, step)))
        return found[-1][1]

    for masked in (False, True):
        with mock.patch.object(ItemRollout, "follow", spy):
            stage(made, mask_history=masked, steps=1, prompts=7, beams=11, learning_rate=0.0).run(made.context)
    [(_, free), (asked, kept)] = found
    answers = np.array(kept["completion_ids"]).reshape(7, 11, 2)
    shown = [one.ids[-2:].tolist() for one in asked]
    assert all(own not in lists.tolist() for own, lists in zip(shown, answers, strict=True))
    answers = np.array(free["completion_ids"]).reshape(7, 11, 2)
    assert any(own in lists.tolist() for own, lists in zip(shown, answers, strict=True))


def test_fresh_prompts_are_last_events_that_were_withheld(tmp_path):
    users = np.repeat(np.arange(1, 7), 4)
    whole = from_pairs(users, np.random.default_rng(0).integers(1, N + 1, len(users)), 7)
    made = policy(tmp_path, histories=without_last(whole))
    plan = stage(made, fresh=whole, steps=3, prompts=4).plan(made.context)
    last = {tuple(whole.of(user)[:-1].tolist()): int(whole.of(user)[-1]) for user in range(1, 7)}
    assert all(last[tuple(before.tolist())] == target for _, target, before in plan)
    anywhere = stage(made, steps=3, prompts=4).plan(made.context)
    assert {len(before) for _, _, before in anywhere} == {1, 2}, "any place of the histories stages were taught"


def test_a_list_longer_than_what_may_be_named_is_refused_before_training(tmp_path):
    made = policy(tmp_path)
    with pytest.raises(InputError, match=r"beams=12, but 11 items are left .* set item_enhancement.beams <= 11"):
        stage(made, mask_history=True, beams=12).run(made.context)
    trie, tokens = made.ranker.trie, made.context.vocabulary.code_tokens
    asked = [Asked(np.array([0]), 1, np.array([2, 2, 5]))]
    assert ItemRollout(trie, None, tokens, asked, 10, torch.float32).group == 10, "a repeat takes one item away"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"beams": 1}, "item_enhancement.beams must be at least 2: a group of one has nothing to compare"),
        ({"passes": 3}, "item_enhancement.passes must divide prompts x beams"),
        ({"hit": 0.0, "rank": 0.0}, "both 0: nothing is rewarded"),
        ({"rank": -1.0}, "item_enhancement.rank"),
        ({"scale": "user"}, "item_enhancement.scale"),
        ({"kl": -0.1}, "item_enhancement.kl"),
        ({"steps": 0}, "item_enhancement.steps"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(wrong, told):
    with pytest.raises(InputError, match=told):
        ItemEnhancementOptions(**wrong)
