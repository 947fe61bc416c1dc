"""A job of several processes: the same losses, weights and lists as of one, and a way on when one of them is gone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from recbole_think import processes
from recbole_think.config import ThinkConfig
from recbole_think.errors import InputError
from recbole_think.experiment import run
from recbole_think.inputs import require_inputs
from recbole_think.itemic.backbone import tiny
from recbole_think.prompts.batching import Row
from recbole_think.prompts.tasks import Example
from recbole_think.stages.batches import BatchPlan
from recbole_think.stages.loss import token_loss
from tests.small import distinct_codes, taught
from tests.toy import N_ITEMS, settings, title

ROOT = Path(__file__).resolve().parent.parent
PLAIN = {"dropout": 0.0, "precision": "float32", "compile": "never", "tokens_per_batch": 512}
LAYERS = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
EVERY = {
    "stages": ["token_warmup", "multi_task", "recommendation", "item_enhancement", "activation", "enhancement"],
    "alignment": {"general_prompts": 6, "answer_tokens": 8, "judged_items": 4},
    "token_warmup": {"tokens": 600, "validations": 1, "checkpoints": 1, **PLAIN},
    "multi_task": {"tokens": 1500, "validations": 1, "checkpoints": 1, "train_words": True, **PLAIN},
    "activation": {"rounds": 2, "validations": 1, "lora_rank": 2, "longest": 12, **PLAIN, **LAYERS},
}
TASTE = {"stages": ["recommendation"], "recommendation": {"epochs": 2, "validations": 2, **PLAIN, **LAYERS}}


def asked(toy_path, run_folder, **more):
    """Settings of a quick run whose losses no chance is part of."""
    return settings("OneRecThink", toy_path, run_folder, **{**TASTE, **more})


def launch(given: dict, folder: Path, count: int = 2, model: str = "OneRecThink") -> subprocess.Popen:
    """Start ``torchrun`` on the command line with these settings."""
    words = {key: given.pop(key) for key in ("run_folder", "data_path", "cache_dir")}
    (folder / "given.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}",
         str(ROOT / "run_recbole_think.py"), f"--model={model}", "--dataset=toy",
         f"--config_files={folder / 'given.yaml'}", *(f"--{key}={value}" for key, value in words.items())],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
    )  # fmt: skip


def finished(job: subprocess.Popen) -> str:
    """What a job that has to end well says on its standard output."""
    out, err = job.communicate(timeout=600)
    assert job.returncode == 0, err[-3000:]
    return out


def curve(folder: Path, stage: str) -> list[dict]:
    return json.loads((folder / stage / "log.json").read_text())["curve"]


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def assert_same_losses(one: Path, other: Path, stage: str, rel: float = 1e-4) -> None:
    ours, theirs = curve(one, stage), curve(other, stage)
    assert len(ours) == len(theirs)
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine["step"] == yours["step"]
        for name in {"loss", "valid"} & set(mine):
            assert mine[name] == pytest.approx(yours[name], rel=rel), (stage, mine, yours)


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_two_processes_learn_and_rank_as_one_does(sharding, toy_path, tmp_path):
    job = launch(asked(toy_path, tmp_path / "two", sharding=sharding), tmp_path)
    one = run("OneRecThink", "toy", config_dict=asked(toy_path, tmp_path / "one"))["metrics"]
    out = finished(job)
    assert out.count("run folder:") == 1, "one of them speaks"
    assert_same_losses(tmp_path / "one", tmp_path / "two", "recommendation")
    two = metrics(tmp_path / "two")
    assert two["test"] == one["test"] and two["train_tokens"] == one["train_tokens"] and two["illegal_rate"] == 0
    assert (tmp_path / "two" / "ranks.tsv").read_text() == (tmp_path / "one" / "ranks.tsv").read_text()


def test_the_same_checkpoint_has_the_same_evaluation_in_any_number_of_processes(toy_path, tmp_path):
    first = run("OneRecThink", "toy", config_dict=asked(toy_path, tmp_path / "run"))["metrics"]
    for made in ("metrics.json", "evaluation/valid.json", "evaluation/test.json", "evaluation/test_other_masking.json"):
        (tmp_path / "run" / made).unlink()
    finished(launch(asked(toy_path, tmp_path / "run"), tmp_path, 3))
    again = metrics(tmp_path / "run")
    for name in ("valid", "test", "test_other_masking", "standard_error"):
        assert again[name] == first[name]


def test_a_model_of_one_process_is_refused_in_two(toy_path, tmp_path):
    job = launch(settings("SASRec", toy_path, tmp_path / "run"), tmp_path, model="SASRec")
    _, err = job.communicate(timeout=600)
    assert job.returncode != 0 and "SASRec is trained by one process, and 2 were launched" in err
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.fixture(scope="module")
def alone(toy_path, tmp_path_factory) -> Path:
    """Every stage in one process; ``EVERY`` in several is compared with it."""
    folder = tmp_path_factory.mktemp("alone") / "one"
    run("OneRecThink", "toy", config_dict=asked(toy_path, folder, **EVERY))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "held"), [("none", None), ("fsdp2", 0.5), ("zero2", 1.0), ("zero3", 0.5)])
def test_every_stage_can_be_shared(sharding, held, alone, toy_path, tmp_path):
    if sharding.startswith("zero"):
        pytest.importorskip("deepspeed", reason="make slow installs it")
    finished(launch(asked(toy_path, tmp_path / "two", sharding=sharding, **EVERY), tmp_path))
    # by rewards AdamW's first steps are of size one whatever the gradient: in shards, which add in another order,
    # weights part by a learning rate where it is nothing but rounding, and what builds on them a little
    later, rewards = (1e-4, 1e-3) if sharding == "none" else (2e-2, 1e-2)
    for stage in ("token_warmup", "multi_task", "recommendation"):
        assert_same_losses(alone, tmp_path / "two", stage)
    assert_same_losses(alone, tmp_path / "two", "activation", rel=later)
    for stage in ("item_enhancement", "enhancement"):
        ours, theirs = (
            [row["reward"] for row in curve(of, stage) if "reward" in row] for of in (alone, tmp_path / "two")
        )
        assert ours == pytest.approx(theirs, rel=rewards), stage
    found = metrics(tmp_path / "two")
    assert found["illegal_rate"] == 0
    if sharding == "none":
        assert found["test"] == metrics(alone)["test"]
    shares = re.findall(r"([\d.]+) of ([\d.]+) MB of weights lie", (tmp_path / "two" / "run.log").read_text())
    assert len(shares) == (0 if held is None else 7), "once a stage, and once a round of activation"
    for here, whole in shares:
        assert held - 0.01 < float(here) / float(whole) < held + 0.1, (
            "a frozen head that is read beside the layers is whole"
        )


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp2", "zero2", "zero3"])
def test_a_head_of_its_own_learns_from_batches_without_a_word(sharding, toy_path, tmp_path):
    """An untied head, layers read again in the backward pass, and shares of a batch in which no word is predicted."""
    if sharding.startswith("zero"):
        pytest.importorskip("deepspeed", reason="make slow installs it")
    model, tokenizer = tiny([title(f"p{number}") for number in range(N_ITEMS)])
    model.config.tie_word_embeddings = False
    AutoModelForCausalLM.from_config(model.config).save_pretrained(tmp_path / "untied")
    tokenizer.save_pretrained(tmp_path / "untied")
    alignment = {
        "backbone": {"name": str(tmp_path / "untied")},
        "stages": ["multi_task"],
        "alignment": EVERY["alignment"],
    }
    lone = {"multi_task": {**EVERY["multi_task"], "row_tokens": 64, "tokens_per_batch": 128}}
    run("OneRecThink", "toy", config_dict=asked(toy_path, tmp_path / "one", **alignment, **lone))
    lone["multi_task"] = {**lone["multi_task"], "gradient_checkpointing": True}
    finished(launch(asked(toy_path, tmp_path / "two", sharding=sharding, **alignment, **lone), tmp_path))
    assert_same_losses(tmp_path / "one", tmp_path / "two", "multi_task")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "sharding"),
    [("none", 1, "none"), ("none", 2, "none"), ("fsdp2", 1, "none"), ("fsdp2", 2, "fsdp2"), ("none", 3, "fsdp2"),
     ("zero3", 2, "zero3")],
)  # fmt: skip
def test_a_killed_process_ends_the_job_and_another_job_goes_on(before, after, sharding, toy_path, tmp_path):
    if before.startswith("zero"):
        pytest.importorskip("deepspeed", reason="make slow installs it")
    long = {"recommendation": {**TASTE["recommendation"], "epochs": 60, "validations": 1, "checkpoints": 8}}
    whole = run("OneRecThink", "toy", config_dict=asked(toy_path, tmp_path / "whole", **long))["metrics"]
    job = launch(asked(toy_path, tmp_path / "run", sharding=before, **long), tmp_path)
    checkpoints = tmp_path / "run" / "recommendation" / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("checkpoint-*/complete")), job)
    victim = children(job.pid)[-1]
    os.kill(victim, signal.SIGKILL)
    _, err = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "Signal 9 (SIGKILL)" in err or "another process of the job is gone" in err
    assert any(checkpoints.glob("checkpoint-*/complete")) and not (tmp_path / "run" / "metrics.json").exists()
    if before.startswith("zero"):
        _, err = launch(asked(toy_path, tmp_path / "run", **long), tmp_path, after).communicate(timeout=600)
        assert "was written with sharding=zero3 in 2 processes, this job has sharding=none in 2" in err
    finished(launch(asked(toy_path, tmp_path / "run", sharding=sharding, **long), tmp_path, after))
    assert "skipped" not in str(metrics(tmp_path / "run")["stages"][0].get("skipped", ""))
    assert metrics(tmp_path / "run")["test"] == whole["test"]
    assert_same_losses(tmp_path / "whole", tmp_path / "run", "recommendation")


def wait_for(true, job: subprocess.Popen) -> None:
    until = time.monotonic() + 300
    while not true():
        assert job.poll() is None, f"the job ended before it could be killed: {job.communicate()[1][-3000:]}"
        assert time.monotonic() < until, "nothing comes"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return sorted(found)


def shared(monkeypatch, number: int, count: int) -> None:
    monkeypatch.setattr(processes, "number", lambda: number)
    monkeypatch.setattr(processes, "count", lambda: count)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shares_of_a_batch_have_the_loss_and_gradient_of_the_batch_together(count, monkeypatch):
    """Four rows in up to five shares, one of which is then empty."""
    model, vocabulary = taught(distinct_codes(20, (4, 8), seed=1), (4, 8), seed=5)
    model.requires_grad_(True)
    rows = [Row([Example(torch.arange(3, 3 + size).numpy(), torch.arange(size).numpy() > at, plain=True)])
            for size, at in ((5, 0), (9, 3), (4, 1), (7, 0))]  # fmt: skip
    plan = BatchPlan([rows], vocabulary.tokenizer.pad_token_id)

    def made() -> tuple[float, torch.Tensor]:
        model.zero_grad()
        loss = token_loss(model, plan[0], vocabulary.code_tokens, 0.0)
        loss.backward()
        grads = [value.grad.flatten() for value in model.parameters() if value.grad is not None]
        return loss.item(), torch.cat(grads).clone()

    whole, gradient = made()
    parts = []
    for number in range(count):
        shared(monkeypatch, number, count)
        parts.append(made())
    assert sum(loss for loss, _ in parts) / count == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(sum(part for _, part in parts) / count, gradient, rtol=1e-4, atol=1e-6)


def test_prompts_that_cannot_be_shared_are_refused_before_anything_is_taught(monkeypatch, toy_path, tmp_path):
    shared(monkeypatch, 0, 3)
    given = asked(toy_path, tmp_path / "run", stages=["recommendation", "activation", "enhancement"], enhancement={})
    with pytest.raises(InputError, match=r"enhancement\.prompts=64 of 8 completions in 1 passes cannot be shared by 3"):
        require_inputs(ThinkConfig("OneRecThink", "toy", config_dict=given))


def test_alone_nobody_is_waited_for():
    with processes.first_alone() as mine:
        assert mine and processes.count() == 1
    assert processes.gathered("x") == ["x"] and processes.number() == 0
