from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from recbole_think.errors import InputError
from recbole_think.stages.options import MultiTaskOptions
from recbole_think.stages.stage import Context, Outcome, load_weights, run_stages, told, trainable


@dataclass(frozen=True)
class AddOptions:
    amount: float = 1.0
    note: tuple = ("a", "b")


@dataclass
class Add:
    """A stage that adds a number to every weight that learns."""

    name: str
    options: AddOptions = field(default_factory=AddOptions)
    ran: int = 0
    fail: bool = False

    def run(self, context) -> Outcome:
        self.ran += 1
        with torch.no_grad():
            context.model.weight += self.options.amount
        if self.fail:
            raise RuntimeError("power cut")
        return Outcome(loss=0.5, tokens=10, steps=2, best_score=0.25, curve=[{"step": 1, "loss": 0.5}])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def context(folder, **facts: Any) -> Context:
    model = torch.nn.Linear(2, 1)
    torch.nn.init.zeros_(model.weight)
    model.bias.requires_grad_(False)
    return Context(
        folder=folder, model=model, vocabulary=None, histories=None, validate=lambda users, think: 0.0, seed=1,
        facts={"data_fingerprint": "abc", **facts}, scalar=lambda *_: None, show_progress=False,
    )  # fmt: skip


def test_stages_run_in_order_each_on_the_weights_of_the_one_before(tmp_path):
    here = context(tmp_path)
    rows = run_stages([Add("one"), Add("two", AddOptions(10.0))], here)
    assert here.model.weight.tolist() == [[11.0, 11.0]]
    assert [row["stage"] for row in rows] == ["one", "two"]
    assert rows[0].items() >= {"loss": 0.5, "tokens": 10, "steps": 2, "best_score": 0.25}.items()
    assert not any(row.get("skipped") for row in rows)
    for name in ("one", "two"):
        assert {path.name for path in (tmp_path / name).iterdir()} == {"weights.safetensors", "facts.json", "log.json"}


def test_finished_stages_are_skipped_with_their_weights(tmp_path):
    run_stages([Add("one"), Add("two", AddOptions(10.0))], context(tmp_path))
    again, stages = context(tmp_path), [Add("one"), Add("two", AddOptions(10.0)), Add("three", AddOptions(100.0))]
    rows = run_stages(stages, again)
    assert [stage.ran for stage in stages] == [0, 0, 1]
    assert [bool(row.get("skipped")) for row in rows] == [True, True, False]
    assert again.model.weight.tolist() == [[111.0, 111.0]]


def test_an_option_that_came_later_is_a_fact_only_where_it_is_set():
    plain, more = told(MultiTaskOptions()), told(MultiTaskOptions(naming=0.1))
    assert not {"naming", "next_title"} & set(plain), "what was finished before they were still matches"
    assert {"sequential", "general", "lora_rank"} <= set(plain), "a 0 of the first day is a fact"
    assert more == {**plain, "naming": 0.1}


def test_a_stage_that_was_cut_off_runs_again_and_the_one_before_does_not(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        run_stages([Add("one"), Add("two", fail=True)], context(tmp_path))
    again, stages = context(tmp_path), [Add("one"), Add("two")]
    run_stages(stages, again)
    assert [stage.ran for stage in stages] == [0, 1]
    assert again.model.weight.tolist() == [[2.0, 2.0]], "nothing of the broken attempt is left"


@pytest.mark.parametrize(
    ("stage", "facts", "name"),
    [
        (Add("one", AddOptions(2.0)), {}, "amount"),
        (Add("one", AddOptions(note=("a",))), {}, "note"),
        (Add("one"), {"data_fingerprint": "other"}, "data_fingerprint"),
        (Add("one"), {"backbone": {"layers": 2}}, "parent|backbone"),
    ],
)
def test_a_folder_made_otherwise_is_refused_by_the_name_of_what_differs(stage, facts, name, tmp_path):
    run_stages([Add("one")], context(tmp_path))
    again = context(tmp_path, **facts)
    with pytest.raises(InputError, match=name) as refused:
        run_stages([stage], again)
    assert "one" in str(refused.value) and stage.ran == 0
    assert again.model.weight.tolist() == [[0.0, 0.0]], "the weights of the other run were not loaded"


def test_a_stage_is_bound_to_the_very_stage_it_built_on(tmp_path):
    run_stages([Add("one"), Add("two")], context(tmp_path))
    for path in (tmp_path / "one").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="parent"):
        run_stages([Add("one", AddOptions(2.0)), Add("two")], context(tmp_path))


def test_the_same_stages_have_the_same_digests_and_other_options_others(tmp_path):
    first, same, other = (
        run_stages([Add("one", AddOptions(amount))], context(tmp_path / name))[0]["digest"]
        for name, amount in (("a", 1.0), ("b", 1.0), ("c", 2.0))
    )
    assert first == same != other


def test_only_what_learns_is_kept_and_what_is_put_back_keeps_its_freezing(tmp_path):
    model = context(tmp_path).model
    kept = {name: value.detach().clone() + 5 for name, value in trainable(model).items()}
    assert set(kept) == {"weight"}
    load_weights(model, kept)
    assert model.weight.tolist() == [[5.0, 5.0]]
    assert model.weight.requires_grad and not model.bias.requires_grad


def test_stages_of_another_run_are_taken_where_they_are_the_very_same(tmp_path):
    given = run_stages([Add("one"), Add("two", AddOptions(10.0))], context(tmp_path / "given"))
    here, stages = context(tmp_path / "here"), [Add("one"), Add("two", AddOptions(10.0)), Add("three")]
    here.stages_from = tmp_path / "given"
    rows = run_stages(stages, here)
    assert [stage.ran for stage in stages] == [0, 0, 1]
    assert here.model.weight.tolist() == [[12.0, 12.0]]
    assert [row["digest"] for row in rows[:2]] == [row["digest"] for row in given]
    assert (tmp_path / "here" / "two" / "weights.safetensors").is_file(), "the folder stands by itself"


def test_a_stage_of_another_run_that_differs_is_made_anew_and_so_is_what_builds_on_it(tmp_path, caplog):
    run_stages([Add("one"), Add("two", AddOptions(10.0))], context(tmp_path / "given"))
    here, stages = context(tmp_path / "here"), [Add("one", AddOptions(2.0)), Add("two", AddOptions(10.0))]
    here.stages_from = tmp_path / "given"
    run_stages(stages, here)
    assert [stage.ran for stage in stages] == [1, 1]
    said = [row.getMessage() for row in caplog.records if "not taken" in row.getMessage()]
    assert [row.rsplit(": ", 1)[1] for row in said] == ["options", "parent"]
    assert here.model.weight.tolist() == [[12.0, 12.0]]


def test_what_a_stage_leans_on_besides_its_options_is_part_of_what_it_was_made_from(tmp_path):
    @dataclass
    class Leaning(Add):
        leans_on: dict = field(default_factory=dict)

    run_stages([Leaning("one", leans_on={"rewards": {"hit": 1.0}})], context(tmp_path))
    with pytest.raises(InputError, match="rewards"):
        run_stages([Leaning("one", leans_on={"rewards": {"hit": 2.0}})], context(tmp_path))
