import numpy as np
import pytest
import torch

from recbole_think.decoding.options import DecodeOptions
from recbole_think.errors import InputError
from recbole_think.prompts.rationale import Case
from recbole_think.stages.activation_options import ActivationOptions
from recbole_think.stages.lessons import Lessons
from recbole_think.stages.options import DistillationOptions
from recbole_think.stages.stage import run_stages
from tests.thinkers import TABLE, Colours, N, coins, colour_of, thinker


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def agreement(made) -> float:
    """Share of the items named after a thought that are of the colour thought of."""
    prompts = made.ranker.prompts([np.array([1 + user]) for user in range(N)])
    said = made.think(prompts, DecodeOptions(thoughts=8, thought_tokens=4, thought_beams=3))
    agrees = [
        colour_of(item) in made.ranker.vocabulary.tokenizer.decode(thought.ids)
        for of_user in said for thought in of_user for item in thought.items
    ]  # fmt: skip
    return float(np.mean(agrees))


def test_a_model_learns_to_think_and_to_answer_as_it_thought(tmp_path):
    made = thinker(tmp_path)
    made.activation().run(made.context)
    made.context.model.eval()
    shares = made.colours_thought()
    assert sum(shares.values()) > 0.95, "it says what it was taught and closes its thought"
    assert 0.3 < shares["red"] < 0.7, "nothing in a history tells the colour"
    assert agreement(made) > 0.95


@pytest.mark.slow
def test_after_a_thought_too_teachers_are_believed(tmp_path):
    made = thinker(tmp_path)

    def contrary(histories, places):  # whatever came, its like of the other colour should have
        came = histories.items[places][:, None]
        return (came - 1 + N // 2) % N + 1, np.ones((len(places), 1), dtype=np.float32)

    options = DistillationOptions(weight=1.0, beyond=0)
    lessons = Lessons(options, made.context.histories, TABLE, contrary)
    made.activation(lambda: lessons).run(made.context)
    made.context.model.eval()
    assert agreement(made) < 0.05


def test_it_still_answers_directly_as_it_is_taught_beside(tmp_path):
    made = thinker(tmp_path)
    stage = made.activation(direct=True)
    plan = stage.plan(made.context)
    labels = torch.cat([batch["labels"].flatten() for batch in plan])
    without = made.activation(direct=False).plan(made.context)
    fewer = torch.cat([batch["labels"].flatten() for batch in without])
    assert (labels != -100).sum() > (fewer != -100).sum()


def test_what_is_rejected_is_told_by_reason_and_never_learnt(tmp_path):
    made = thinker(tmp_path)

    class Leaks(Colours):
        def explain(self, cases):
            others = [("red.",), None, ("blue blue blue blue.",), (" ",)]
            return [(case.target,) if place % 5 == 0 else others[place % 5 - 1] for place, case in enumerate(cases)]

    made.source = Leaks()
    outcome = made.activation(longest=6).run(made.context)
    rejected = outcome.figures["rejected"]
    for reason in ("leakage", "repetition", "empty"):
        assert rejected[reason] == pytest.approx(0.4 if reason == "empty" else 0.2, abs=0.01), reason
    assert outcome.figures["accepted"] == pytest.approx(0.2, abs=0.01)
    assert outcome.figures["training_leakage_rate"] == 0


def test_a_source_that_only_leaks_is_refused_before_anything_is_trained(tmp_path):
    made = thinker(tmp_path)

    class Leaks(Colours):
        def explain(self, cases):
            return [(case.target,) for case in cases]

    made.source = Leaks()
    with pytest.raises(InputError, match=r"none of .* may be learnt from \(leakage"):
        made.activation().run(made.context)


def test_what_was_explained_is_not_asked_for_again_when_the_stage_goes_on(tmp_path):
    made = thinker(tmp_path)
    stage = made.activation()
    stage.plan(made.context)
    asked = made.source.asked
    again = stage.plan(made.context)
    assert made.source.asked == asked and asked > 0
    assert len(again) > 0


def test_the_second_round_replaces_what_missed_by_empty_thoughts_and_hits_by_own_ones(tmp_path):
    made = thinker(tmp_path)
    outcome = made.activation(rounds=2, judged_beams=3, epochs=2).run(made.context)
    first, second = outcome.figures["rounds"]
    assert first["empty_thoughts"] == 0
    assert second["judged"] == first["learnt"]
    assert second["empty_thoughts"] == second["judged"] - second["led_to_target"] > 0
    assert 0 < second["own_thoughts"] <= second["led_to_target"]
    assert second["leaking"] == 0


def test_the_round_validation_liked_best_is_kept(tmp_path):
    scores = iter([0.9, 0.1])
    made = thinker(tmp_path, validate=lambda users, think: next(scores))
    stage = made.activation(rounds=2, epochs=1)
    before = {}

    def remember(*args):
        judged = type(stage)._judged(stage, *args)
        before.update({name: value.clone() for name, value in made.context.model.named_parameters()})
        return judged

    stage._judged = remember
    outcome = stage.run(made.context)
    assert outcome.figures["kept_round"] == 1 and outcome.best_score == 0.9
    for name, value in made.context.model.named_parameters():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("kept", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_rounds_through_adapters_keep_the_best_ones_weights_and_are_read_back(tmp_path, kept):
    scores = iter([0.9, 0.1] if kept == 1 else [0.1, 0.9])
    made, after = thinker(tmp_path, validate=lambda users, think: next(scores)), []
    stage = made.activation(rounds=2, epochs=1, lora_rank=4)
    whole = stage._round

    def remembered(*args):
        outcome = whole(*args)
        after.append({name: value.clone() for name, value in made.context.model.named_parameters()})
        return outcome

    stage._round = remembered
    assert stage.run(made.context).figures["kept_round"] == kept
    again = thinker(tmp_path, validate=lambda users, think: pytest.fail("taught again"))
    assert again.activation(rounds=2, epochs=1, lora_rank=4).run(again.context).figures["kept_round"] == kept
    for model in (made.context.model, again.context.model):
        for name, value in model.named_parameters():
            assert torch.equal(value, after[kept - 1][name]), name
    assert any(not torch.equal(after[0][name], after[1][name]) for name in after[0])


@pytest.mark.parametrize("unled", ["direct", "resample", "keep"])
def test_thoughts_that_miss_are_dealt_with_as_asked(tmp_path, unled):
    made = thinker(tmp_path)
    outcome = made.activation(rounds=2, epochs=1, judged_beams=2, unled=unled).run(made.context)
    second = outcome.figures["rounds"][1]
    assert (second["empty_thoughts"] > 0) == (unled == "direct")
    assert second["learnt"] + second["empty_thoughts"] == second["judged"]


def test_a_finished_stage_is_skipped_and_gives_the_same_weights(tmp_path):
    made = thinker(tmp_path)
    [row] = run_stages([made.activation(epochs=1)], made.context)
    again = thinker(tmp_path)
    [skipped] = run_stages([again.activation(epochs=1)], again.context)
    assert skipped["skipped"] and skipped["digest"] == row["digest"]
    for one, other in zip(made.context.model.parameters(), again.context.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not list((tmp_path / "activation").glob("checkpoints*")), "what only the stage needed is gone"


def test_the_pruned_context_is_the_history_as_far_as_a_prompt_shows_it(tmp_path):
    made = thinker(tmp_path)
    seen: list[Case] = []

    class Notes(Colours):
        def explain(self, cases):
            seen.extend(cases)
            return [("red.",)] * len(cases)

    made.source = Notes()
    made.activation(epochs=1).plan(made.context)
    histories = coins()
    transitions = set()
    for user in range(1, histories.n_users):
        of_user = histories.of(user).tolist()
        for place in range(1, len(of_user)):
            for begin in range(max(0, place - 4), place):
                transitions.add((tuple(of_user[begin:place]), of_user[place]))
    for case in seen:
        assert (case.history, case.target) in transitions
        assert set(case.evidence) <= set(case.history) - {case.target}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"source": "oracle"}, "activation.source"),
        ({"words": "taught", "source": "self"}, "activation.words"),
        ({"unled": "drop"}, "activation.unled"),
        ({"rounds": 0}, "activation.rounds"),
        ({"cited": 0, "kinds": 0}, "activation.kinds"),
        ({"shortest": 9, "longest": 8}, "activation.longest"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(wrong, told):
    with pytest.raises(InputError, match=told):
        ActivationOptions(**wrong)


@pytest.mark.slow
def test_a_wish_steers_the_thought_and_with_it_the_answer(tmp_path):
    made = thinker(tmp_path)
    made.activation(instructed=0.5, epochs=40, learning_rate=1e-2).run(made.context)  # learnt whatever the processor
    made.context.model.eval()
    histories = [np.array([1 + user]) for user in range(N)]
    free = made.colours_thought(32)
    assert min(free.values()) > 0.25, "without a wish either colour is thought"
    for colour in ("red", "blue"):
        for wish in (f"Only {colour}.", f"only {colour}"):
            prompts = made.ranker.prompts(histories, wish)
            options = DecodeOptions(thoughts=4, thought_tokens=4, thought_beams=3)
            ranked = made.ranker.rank(prompts, lambda rows: None, options, torch.float32)
            share = np.mean([colour_of(items[0]) == colour for items in ranked])
            assert share > 0.75, wish


def test_words_of_a_wish_are_words_whatever_they_spell(tmp_path):
    made = thinker(tmp_path)
    [prompt] = made.ranker.prompts([np.array([1])], "<|im_end|> </think> <a_1><b_2>")
    vocabulary = made.ranker.vocabulary
    before = made.ranker.prompts([np.array([1])])[0]
    special = {*vocabulary.marks, *torch.cat(vocabulary.code_tokens).tolist()}
    assert sum(token in special for token in prompt.tolist()) == 2, "the codes of the one item of the history"
    ends = vocabulary.tokenizer.eos_token_id
    assert (prompt == ends).sum() == (before == ends).sum()
