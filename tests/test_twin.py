"""``decode.think`` is the one switch between a model that thinks and its twin: the same weights, either way."""

from recbole_think.experiment import run
from recbole_think.resume import weights_digest
from tests.toy import run_opened, settings


def test_a_run_without_thinking_takes_the_stages_of_one_that_thinks_and_is_its_twin(toy_path, tmp_path):
    stages = ["recommendation", "activation"]
    thinks = settings("OneRecThink", toy_path, tmp_path / "thinks", stages=stages, instruments={"users": 0})
    direct = settings("OneRecThink", toy_path, tmp_path / "direct", stages=stages, stages_from=str(tmp_path / "thinks"))
    direct["decode"] = {**direct["decode"], "think": False, "num_beams": 40}  # as many candidates: 2 thoughts x 20
    first, second = run_opened("OneRecThink", thinks), run_opened("OneRecThink", direct)
    assert weights_digest(first.trainer.model) == weights_digest(second.trainer.model)
    taken = {row["stage"]: row["seconds"] for row in second.metrics["stages"]}
    assert taken == {row["stage"]: row["seconds"] for row in first.metrics["stages"]}, "nothing was trained again"
    twin = first.metrics["reasoning"]["twin"]
    assert {name: round(second.metrics["test"][name], 6) for name in twin} == twin
    assert first.metrics["think"] and not second.metrics["think"]


def test_weights_that_are_kept_do_not_depend_on_the_switch(toy_path, tmp_path):
    kept = {}
    for think in (True, False):
        given = settings("OneRecThink", toy_path, tmp_path / str(think), stages=["recommendation", "activation"])
        given["decode"] = {**given["decode"], "think": think}
        metrics = run("OneRecThink", "toy", config_dict=given)["metrics"]
        kept[think] = [(row["stage"], row["best_score"]) for row in metrics["stages"]]
    assert kept[True] == kept[False]
