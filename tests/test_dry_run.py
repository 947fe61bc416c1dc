from pathlib import Path

import pytest

from recbole_think.blocks import STAGES
from recbole_think.cli import main
from recbole_think.dry_run import describe, dry_run
from tests.toy import N_ITEMS, settings, walks


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_dry_run_knows_the_sizes_and_leaves_nothing_behind(toy_path, tmp_path):
    config = settings("OneRecThink", toy_path, tmp_path / "run", stages=list(STAGES))
    found = dry_run("OneRecThink", "toy", config_dict=config)
    world = walks()
    assert (found["users"], found["items"]) == (len(world), N_ITEMS)
    assert found["events"] == sum(len(history) - 2 for history in world.values())
    assert [row["stage"] for row in found["stages"]] == list(STAGES)
    assert found["stages"][0]["tokens"] >= config["token_warmup"]["tokens"]
    assert found["stages"][1]["tokens"] >= config["multi_task"]["tokens"]
    evaluations = 3 + sum(row["validations"] for row in found["stages"])
    parts = sum(row["seconds"] for row in found["stages"]) + evaluations * found["evaluation_seconds"]
    assert found["seconds"] == pytest.approx(parts) and found["seconds"] > 0
    assert not (tmp_path / "run").exists() and not list(Path("runs").glob("*"))
    assert "nothing was trained or kept" in describe(found)


def test_the_tokens_planned_are_those_a_run_reads(toy_path, tmp_path):
    from recbole_think.experiment import run

    config = settings("OneRecThink", toy_path, tmp_path / "run", stages=["token_warmup", "recommendation"])
    planned = {row["stage"]: row["tokens"] for row in dry_run("OneRecThink", "toy", config_dict=config)["stages"]}
    read = {row["stage"]: row["tokens"] for row in run("OneRecThink", "toy", config_dict=config)["metrics"]["stages"]}
    assert planned == read


@pytest.mark.parametrize(("model", "epochs"), [("Pop", 1), ("GRU4Rec", 2)])
def test_a_model_of_recboles_is_sized_up_too(model, epochs, toy_path, tmp_path, capsys):
    words = [f"--{key}={value}" for key, value in {"epochs": 2, "data_path": toy_path, "topk": "[5,10]"}.items()]
    assert main([f"--model={model}", "--dataset=toy", *words, "--dry_run"]) == 0
    assert f"at most {epochs} epochs" in capsys.readouterr().out
    assert not Path("runs").exists()
