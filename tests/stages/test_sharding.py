"""What learns in the place of a model: refused where it cannot, whole again where the model is asked.

That shards learn what one process learns is seen in ``tests/test_many_processes.py``.
"""

import pytest
import torch

from recbole_think import processes
from recbole_think.artifacts import read_json, write_json
from recbole_think.config import ThinkConfig
from recbole_think.errors import InputError
from recbole_think.experiment import run
from recbole_think.inputs import require_inputs
from recbole_think.stages import four_bit
from recbole_think.stages import sharding as sharding_module
from recbole_think.stages.adapters import adapted
from recbole_think.stages.cutting import NOTED, note_shards, require_same_shards
from recbole_think.stages.sharding import Learner, require_sharding
from tests.small import distinct_codes, taught
from tests.toy import settings


def test_an_unknown_sharding_is_refused():
    with pytest.raises(
        InputError, match=r"sharding='fsdp'; did you mean fsdp2\?: take one of none, fsdp2, zero2, zero3"
    ):
        require_sharding("fsdp", {})


def test_a_missing_deepspeed_is_named(monkeypatch):
    monkeypatch.setattr(sharding_module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'zero3 needs DeepSpeed: pip install "recbole-think\[deepspeed\]"'):
        require_sharding("zero3", {})
    require_sharding("fsdp2", {})


@pytest.mark.parametrize(("name", "instead"), [("ACCELERATE_USE_FSDP", "fsdp2"), ("ACCELERATE_USE_DEEPSPEED", "zero2")])
def test_a_launcher_that_shards_by_itself_is_refused(name, instead):
    with pytest.raises(InputError, match=f"{name}=true.*--sharding={instead}"):
        require_sharding("none", {name: "true"})


@pytest.mark.parametrize(
    ("sharding", "count", "refused"),
    [("zero2", 2, False), ("zero3", 2, True), ("zero2", 3, True), ("none", 1, True), ("fsdp2", 2, True)],
)
def test_deepspeeds_shards_are_for_a_job_like_the_one_that_wrote_them(sharding, count, refused, tmp_path, monkeypatch):
    note_shards(tmp_path, "zero2")
    noted = tmp_path / NOTED
    write_json(noted, {**read_json(noted), "processes": 2})
    monkeypatch.setattr(processes, "count", lambda: count)
    if refused:
        with pytest.raises(
            InputError, match=f"sharding=zero2 in 2 processes, this job has sharding={sharding} in {count}"
        ):
            require_same_shards(tmp_path, sharding)
    else:
        require_same_shards(tmp_path, sharding)


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_other_checkpoints_are_for_any_job_without_deepspeed(sharding, tmp_path):
    note_shards(tmp_path, "fsdp2")
    require_same_shards(tmp_path, sharding)
    with pytest.raises(InputError, match="sharding=fsdp2 in 1 processes, this job has sharding=zero3"):
        require_same_shards(tmp_path, "zero3")


def test_one_process_alone_has_nothing_to_cut():
    model, _ = taught(distinct_codes(20, (4, 8), seed=1), (4, 8), seed=5)
    learner = Learner(model, "fsdp2")
    assert learner.model is model and not learner.owns_placement and not learner.arguments()


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, "what is rounded cannot learn; set recommendation.lora_rank"),
     ({"lora_rank": 2}, "set sharding=none"),
     ({"four_bit": 4}, "four_bit")],
)  # fmt: skip
def test_four_bits_are_refused_where_they_cannot_be(given, said, toy_path, tmp_path):
    asked = settings(
        "OneRecThink", toy_path, tmp_path / "run", stages=["recommendation"], sharding="fsdp2",
        recommendation={"four_bit": True, **given},
    )  # fmt: skip
    with pytest.raises(InputError, match=said):
        require_inputs(ThinkConfig("OneRecThink", "toy", config_dict=asked))


def test_a_missing_bitsandbytes_is_named(monkeypatch):
    monkeypatch.setattr(four_bit, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r'activation.four_bit needs bitsandbytes: pip install "recbole-think\[four_bit\]"'
    ):
        four_bit.require_four_bit("activation", 8, "none")


@pytest.mark.slow
def test_adapters_learnt_beside_rounded_layers_stand_beside_the_whole_ones():
    pytest.importorskip("bitsandbytes", reason="make slow installs it")
    model, _ = taught(distinct_codes(20, (4, 8), seed=1), (4, 8), seed=5)
    model.requires_grad_(True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    ids = torch.arange(6)[None]
    with adapted(model, rank=2):
        with Learner(model, rounded=torch.float32) as learner:
            exact, rounded = (of(ids).logits for of in (model, learner.model))
            assert 0.0 < (exact - rounded).norm() / exact.norm() < 0.5, "near, not the same"
            whole = learner.held()
            assert whole[0] < whole[1]
            learnt = [value for name, value in learner.model.named_parameters() if "lora_B" in name]
            assert learnt and all(value.requires_grad for value in learnt)
            rounded.sum().backward()
            with torch.no_grad():
                for value in learnt:
                    assert value.grad is not None and value.grad.abs().max() > 0
                    value.fill_(0.5)
            with learner.at_hand() as asked:
                assert all((value == 0.5).all() for name, value in asked.named_parameters() if "lora_B" in name)
        layer = model.get_decoder().layers[0].self_attn.q_proj
        delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
        delta = delta.detach().clone()
    name = next(name for name in before if name.endswith("layers.0.self_attn.q_proj.weight"))
    torch.testing.assert_close(dict(model.named_parameters())[name], before[name] + delta)


@pytest.mark.slow
def test_a_run_in_four_bits_learns(toy_path, tmp_path):
    pytest.importorskip("bitsandbytes", reason="make slow installs it")
    recommendation = {
        "epochs": 4, "validations": 2, "lora_rank": 4, "four_bit": True, "precision": "float32", "compile": "never",
    }  # fmt: skip
    asked = settings(
        "OneRecThink", toy_path, tmp_path / "run", stages=["recommendation"], recommendation=recommendation
    )
    found = run("OneRecThink", "toy", config_dict=asked)["metrics"]
    assert found["illegal_rate"] == 0
    assert "MB of weights lie in this process" in (tmp_path / "run" / "run.log").read_text()
    losses = [
        row["loss"] for row in read_json(tmp_path / "run" / "recommendation" / "log.json")["curve"] if "loss" in row
    ]
    assert losses[-1] < losses[0] - 0.1
