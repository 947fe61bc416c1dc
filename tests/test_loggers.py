"""TensorBoard always, Weights & Biases through RecBole's own keys."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from recbole_think import experiment
from recbole_think.errors import InputError
from recbole_think.experiment import run
from tests.toy import settings

STAGE = {"stages": ["recommendation"]}


@pytest.fixture
def wandb(monkeypatch):
    """Stands in for the package: notes what it is told."""
    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.told, module.run = [], None

    def init(project, config):
        module.project, module.run = project, SimpleNamespace(summary={})

    module.init, module.define_metric = init, lambda *names, **more: None
    module.log = lambda metrics, commit: module.told.append(metrics)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_stages_and_test_metrics_reach_weights_and_biases(wandb, toy_path, tmp_path):
    logged = {"log_wandb": True, "wandb_project": "think"}
    metrics = run(
        "OneRecThink", "toy", config_dict=settings("OneRecThink", toy_path, tmp_path / "run", **STAGE, **logged)
    )
    assert wandb.project == "think"
    losses = [told for told in wandb.told if "recommendation/loss" in told]
    assert losses and [told["train_step"] for told in losses] == sorted(told["train_step"] for told in losses)
    assert any("recommendation/valid" in told for told in wandb.told)
    assert wandb.run.summary["eval/ndcg@10"] == metrics["metrics"]["test"]["ndcg@10"], (
        "under the masking that was chosen"
    )


def test_to_log_is_no_other_run(wandb, toy_path, tmp_path):
    plain = settings("Pop", toy_path, tmp_path / "run")
    run("Pop", "toy", config_dict=plain)
    again = run("Pop", "toy", config_dict={**plain, "log_wandb": True})
    assert again["run_folder"] == str(tmp_path / "run") and wandb.run is None, "it was finished and is read back"


def test_without_the_package_it_is_said_how_to_install_it(monkeypatch, toy_path, tmp_path):
    monkeypatch.setattr(experiment, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install wandb"):
        run("Pop", "toy", config_dict=settings("Pop", toy_path, tmp_path / "run", log_wandb=True))


def test_tensorboard_has_the_curves_of_a_stage(toy_path, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("OneRecThink", "toy", config_dict=settings("OneRecThink", toy_path, tmp_path / "run", **STAGE))
    found = EventAccumulator(str(next((tmp_path / "run" / "log_tensorboard").iterdir()))).Reload()
    assert {"recommendation/loss", "recommendation/valid"} <= set(found.Tags()["scalars"])
