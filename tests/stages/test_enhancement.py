import itertools
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from trl import GRPOTrainer

from recbole_think.corpus.histories import without_last
from recbole_think.errors import InputError
from recbole_think.stages import grpo
from recbole_think.stages.grpo import RewardTrainer, Stop
from recbole_think.stages.held_out import compared
from recbole_think.stages.reinforcement import EnhancementOptions
from recbole_think.stages.rewards import RewardOptions
from recbole_think.stages.stage import run_stages
from tests.thinkers import coins, killed_after_one, reds, thinker


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def activated_thinker(folder, weights, **more):
    """One that thinks red or blue by a coin, among users whose next item is red; validated by how often it says so."""
    made = thinker(folder, histories=reds(), **more)
    with torch.no_grad():
        for name, value in made.context.model.named_parameters():
            value.copy_(weights[name])
    if "validate" not in more:
        made.context.validate = lambda users, think: made.share_answered_red(16)
    return made


def curve_of(outcome, name):
    return [row[name] for row in outcome.curve if name in row]


@pytest.mark.parametrize("lora_rank", [0, 8])
def test_where_every_target_is_red_it_learns_to_think_what_leads_to_red(tmp_path, activated, lora_rank):
    made = activated_thinker(tmp_path, activated)
    before = made.share_answered_red()
    outcome = made.enhancement(lora_rank=lora_rank, learning_rate=4e-3).run(made.context)
    made.context.model.eval()
    assert 0.3 < before < 0.7 and made.share_answered_red() > 0.9
    assert made.colours_thought()["blue"] < 0.05
    rewards = curve_of(outcome, "reward")
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.2


def test_the_control_that_learns_nothing_stays_as_it_was(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    before = made.colours_thought()
    outcome = made.enhancement(learning_rate=0.0, steps=6).run(made.context)
    assert made.colours_thought() == before
    for name, value in made.context.model.named_parameters():
        assert torch.equal(value, activated[name]), name
    assert max(curve_of(outcome, "kl") or [0.0]) == 0.0


def test_rows_of_words_and_codes_stay_as_they_are(tmp_path, activated):
    later = itertools.count()
    made = activated_thinker(tmp_path, activated, validate=lambda users, think: next(later))
    made.enhancement(steps=2).run(made.context)
    moved = {name for name, value in made.context.model.named_parameters() if not torch.equal(value, activated[name])}
    assert moved and not any("embed" in name or "lm_head" in name for name in moved)


def test_a_step_tells_what_one_wants_to_know_of_it(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    outcome = made.enhancement(steps=2, kl=0.1).run(made.context)
    told = set().union(*(row for row in outcome.curve))
    assert {
        "reward", "reward_spread", "groups_without_signal", "hit_rate", "rationale_tokens", "kl", "entropy",
        "rollout_seconds", "reward_seconds", "step_seconds", "valid",
    } <= told  # fmt: skip
    [first, second] = curve_of(outcome, "kl")
    assert first == pytest.approx(0, abs=1e-5) and second > 0, "the reference is the policy as it began"


def test_the_policy_it_drifts_from_is_the_one_the_stage_began_with_with_adapters_too(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    outcome = made.enhancement(steps=2, kl=0.1, lora_rank=4, learning_rate=3e-2).run(made.context)
    [first, second] = curve_of(outcome, "kl")
    assert first == pytest.approx(0, abs=1e-5) and second > 0


def test_several_passes_are_the_same_step_in_less_memory(tmp_path, activated):
    whole = activated_thinker(tmp_path / "whole", activated)
    parts = activated_thinker(tmp_path / "parts", activated)
    one = whole.enhancement(steps=2).run(whole.context)
    other = parts.enhancement(steps=2, passes=4).run(parts.context)
    assert curve_of(one, "reward") == pytest.approx(curve_of(other, "reward"), abs=1e-6)


def test_layers_computed_again_in_the_backward_pass_are_the_same_steps(tmp_path, activated):
    whole = activated_thinker(tmp_path / "whole", activated)
    again = activated_thinker(tmp_path / "again", activated)
    for made in (whole, again):
        made.context.model.set_attn_implementation("eager")  # as on a CPU, where training puts its own in that place
    one = whole.enhancement(steps=2).run(whole.context)
    other = again.enhancement(steps=2, gradient_checkpointing=True).run(again.context)
    assert curve_of(one, "reward") == pytest.approx(curve_of(other, "reward"), abs=1e-6)
    assert curve_of(one, "kl") == pytest.approx(curve_of(other, "kl"), rel=1e-2, abs=1e-7)


def test_held_out_reward_is_compared_before_and_after(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    given = iter([{"total": np.array([0.0, 1.0, 0.0, 1.0])}, {"total": np.array([1.0, 1.0, 1.0, 1.5])}])
    stage = made.enhancement(held_out=lambda *_: lambda model: next(given), steps=1)
    assert "held_out_reward" not in stage.run(made.context).figures, "0 held-out users: not measured"
    stage.options = replace(stage.options, held_out=4)
    found = stage.run(made.context).figures["held_out_reward"]["total"]
    assert found["before"] == 0.5 and found["after"] == 1.125 and found["gain"] == 0.625 and found["users"] == 4


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_prompts_read_once_give_the_scores_and_gradients_of_trls_own_way(tmp_path, activated, temperature):
    made = activated_thinker(tmp_path, activated)
    stage, seen = made.enhancement(steps=1, prompts=4, temperature=temperature), []

    class Both(RewardTrainer):
        def _get_per_token_logps_and_entropies(self, model, *given, **more):
            ours = super()._get_per_token_logps_and_entropies(model, *given, **more)
            theirs = GRPOTrainer._get_per_token_logps_and_entropies(self, model, *given, **more)
            mask = given[1][:, -given[2] :].bool()
            if more.get("compute_entropy"):
                slopes = [
                    torch.autograd.grad(
                        found[0][mask].sum(), model.model.layers[0].mlp.up_proj.weight, retain_graph=True
                    )
                    for found in (ours, theirs)
                ]
                seen.append((ours[0][mask], theirs[0][mask], ours[1][mask], theirs[1][mask], *slopes))
            return theirs

    with mock.patch.object(grpo, "RewardTrainer", Both):
        stage.run(made.context)
    [(ours, theirs, entropy, their_entropy, [slope], [their_slope])] = seen
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, their_entropy.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slope, their_slope, atol=1e-4, rtol=1e-4)


def test_a_gain_that_all_users_share_is_certain_and_none_is_none():
    before = np.random.default_rng(0).random(500)
    sure = compared(before, before + 0.1 + 0.01 * np.random.default_rng(1).normal(size=500))
    assert sure["p_value"] < 1e-6 and sure["gain"] == pytest.approx(0.1, abs=0.01)
    assert compared(before, before)["p_value"] == 1.0
    unsure = compared(before, before + np.random.default_rng(2).normal(size=500))
    assert unsure["p_value"] > 0.01


def test_a_run_that_was_cut_goes_on_to_the_same_weights(tmp_path, activated):
    whole = activated_thinker(tmp_path / "whole", activated)
    [row] = run_stages([whole.enhancement(steps=4, checkpoints=1)], whole.context)
    cut = activated_thinker(tmp_path / "cut", activated)
    stage = cut.enhancement(steps=4, checkpoints=1)
    cut.context.validate = killed_after_one(cut.context.validate)
    with pytest.raises(KeyboardInterrupt):
        run_stages([stage], cut.context)
    assert list((tmp_path / "cut" / "enhancement" / "checkpoints").glob("checkpoint-2/complete"))
    again = activated_thinker(tmp_path / "cut", activated)
    [resumed] = run_stages([again.enhancement(steps=4, checkpoints=1)], again.context)
    for (name, one), other in zip(
        whole.context.model.named_parameters(), again.context.model.parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    assert resumed["tokens"] == row["tokens"]


def test_training_stops_where_the_policy_runs_away_and_says_why(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    outcome = made.enhancement(steps=40, kl=1e-6, most_kl=0.01).run(made.context)
    assert "KL" in outcome.figures["stopped"] and outcome.steps < 40


def test_what_training_was_stopped_with_is_among_the_weights_to_choose_from(tmp_path, activated):
    scores = iter([0.1, 0.9])
    made = activated_thinker(tmp_path, activated, validate=lambda users, think: next(scores))
    outcome = made.enhancement(steps=40, kl=1e-6, most_kl=0.01, validations=1).run(made.context)
    assert outcome.steps < 40 and curve_of(outcome, "valid") == [0.1, 0.9] and outcome.best_score == 0.9
    kept = dict(made.context.model.named_parameters())
    assert any(not torch.equal(kept[name], value) for name, value in activated.items() if name in kept)


def test_a_policy_that_only_got_worse_is_not_kept(tmp_path, activated):
    scores = iter([0.9, 0.2])
    made = activated_thinker(tmp_path, activated, validate=lambda users, think: next(scores))
    outcome = made.enhancement(steps=2).run(made.context)
    assert outcome.best_score == 0.9 and curve_of(outcome, "valid") == [0.9, 0.2]
    for name, value in made.context.model.named_parameters():
        assert torch.equal(value, activated[name]), name


def test_training_stops_where_the_reward_collapses():
    stop = Stop(EnhancementOptions(least_reward=0.5))

    class State:
        log_history = [{"reward": 1.0}] * 5 + [{"reward": 0.4}] * 5
        global_step = 10

    class Control:
        should_training_stop = False

    stop.on_log(None, State, control := Control())
    assert control.should_training_stop and "fell from 1.0000 to 0.4000" in stop.why
    steady = Stop(EnhancementOptions(least_reward=0.5))
    State.log_history = [{"reward": 1.0}] * 5 + [{"reward": 0.6}] * 5
    steady.on_log(None, State, control := Control())
    assert not control.should_training_stop
    for now, over in ((-2.9, False), (-3.1, True)):  # a log-probability is negative from the beginning
        State.log_history = [{"reward": -2.0}] * 5 + [{"reward": now}] * 5
        Stop(EnhancementOptions(least_reward=0.5)).on_log(None, State, control := Control())
        assert control.should_training_stop == over


def test_prompts_are_places_of_training_histories_each_once_before_any_comes_again(tmp_path, activated):
    made = thinker(tmp_path, histories=coins(n_users=4, length=3))
    plan = made.enhancement(steps=3, prompts=4).plan(made.context)
    places = [(tuple(before.tolist()), target) for _, target, before in plan]
    assert len(plan) == 12 and len(set(map(str, places[:8]))) == 8
    for shown, _, before in plan:
        assert shown.tolist() == before.tolist()[-4:] and len(shown) > 0


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rationales": 1}, "a group of one has nothing to compare"),
        ({"passes": 3}, "must divide"),
        ({"scale": "user"}, "enhancement.scale"),
        ({"clip": 0.0}, "enhancement.clip"),
        ({"steps": 0}, "enhancement.steps"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(wrong, told):
    with pytest.raises(InputError, match=told):
        EnhancementOptions(**wrong)


def test_weights_of_rewards_add_up(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    outcome = made.enhancement(RewardOptions(position=0.0, hit=2.0, form=1.0), steps=1).run(made.context)
    assert outcome.figures["rewards"] == {"hit": 2.0, "form": 1.0}
    [reward], [hits] = curve_of(outcome, "reward"), curve_of(outcome, "hit_rate")
    assert reward == pytest.approx(2 * hits + 1, abs=0.05)


def test_fresh_prompts_are_last_events_that_were_withheld(tmp_path, activated):
    whole = coins(n_users=6, length=4)
    made = thinker(tmp_path, histories=without_last(whole))
    stage = made.enhancement(steps=3, prompts=4)
    stage.fresh = whole
    plan = stage.plan(made.context)
    last = {tuple(whole.of(user)[:-1].tolist()): int(whole.of(user)[-1]) for user in range(1, 7)}
    assert len(plan) == 12
    for shown, target, before in plan:
        assert last[tuple(before.tolist())] == target and shown.tolist() == before.tolist()[-4:]
    assert {tuple(before.tolist()) for _, _, before in plan[:6]} == set(last), "each once before any comes again"
