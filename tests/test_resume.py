"""Killed at any moment and started again, a run ends where it would have ended.

What a killed process leaves behind is what is on the disk, and that changes at countable moments: a file is opened to
be written, renamed or removed, a folder made or removed. So the kills come right before such moments, drawn from those
of a run nobody interrupts. The processes are forked from one that has imported everything.
"""

import json
import multiprocessing
import os
import random
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from recbole.trainer import Trainer

from recbole_think import experiment, resume
from recbole_think.errors import InputError
from recbole_think.evaluation import evaluate
from recbole_think.experiment import run
from tests.toy import run_opened, settings

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
VARY = {"cost_ratio", "seconds", "finished", "peak_memory_mib", "stages", "row", "checkpoint"}
OUTSIDE = re.compile(r"run\.log|\.lock|log_tensorboard/.*")  # says when, not what
BIG = ["trl", "recbole_think.stages.enhancement", "recbole_think.experiment",
       "recbole_think.model", "recbole_think.trainer", "recbole_think.itemic.backbone",
       "recbole_think.stages.recommendation", "sklearn.cluster", "sklearn.decomposition", "scipy.sparse",
       "transformers.models.qwen3.modeling_qwen3", "torch.utils.tensorboard", "recbole.trainer"]  # fmt: skip


def many_stops(data_path: Path, folder: Path, model: str = "OneRecThink") -> dict:
    """A toy run with much to be interrupted: 20 steps, validations after 7, 13 and 20, a checkpoint every 3."""
    lessons = {
        "epochs": 1, "validations": 3, "checkpoints": 5, "valid_users": 20, "precision": "float32",
        "tokens_per_batch": 320, "row_tokens": 96,
    }  # fmt: skip
    more = {"recommendation": lessons} if model == "OneRecThink" else {}
    return settings(model, data_path, folder, **more, cache_dir=str(data_path / "cache"))


def moment(event: str, arguments: tuple, folder: Path) -> str | None:
    """The name of a change on the disk below ``folder``, the same in every process; None for any other event."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if not (writes or event in CHANGES) or not isinstance(arguments[0], str | os.PathLike):
        return None
    path = os.path.relpath(os.path.abspath(arguments[0]), folder)  # noqa: PTH100 (as the system sees it)
    if path.startswith("..") or OUTSIDE.fullmatch(path.removeprefix("pop/")):
        return None
    return f"{event} {re.sub(r'[.][0-9]+$', '', path)}"  # a draft is named after its process


def work(config_dict: dict, notes: Path, die_before: str | None) -> None:
    """Run in this process; note every change on the disk, and die by SIGKILL right before one of them."""
    torch.set_num_threads(1)
    folder, noted = Path(config_dict["run_folder"]), notes.open("w", buffering=1)

    def watch(event: str, arguments: tuple) -> None:
        if name := moment(event, arguments, folder):
            noted.write(f"{name}\n")
            if name == die_before:
                os.kill(os.getpid(), signal.SIGKILL)

    os.chdir(notes.parent)
    sys.addaudithook(watch)
    run("OneRecThink", "toy", config_dict=config_dict)


def ended(context, config_dict: dict, notes: Path, die_before: str | None = None) -> int:
    """Exit code of a process that works on a run folder."""
    process = context.Process(target=work, args=(config_dict, notes, die_before))
    process.start()
    process.join()
    return process.exitcode


def timeless(read):
    """JSON without what tells the time, at any depth."""
    if isinstance(read, dict):
        told = {key: value for key, value in read.items() if key not in VARY and not key.endswith("_seconds")}
        return {key: timeless(value) for key, value in told.items()}
    return [timeless(value) for value in read] if isinstance(read, list) else read


def content(folder: Path) -> dict:
    """Everything a run folder holds but times: bytes by file, and JSON without what may differ."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if OUTSIDE.fullmatch(name.removeprefix("pop/")):
            continue
        if path.name == "report.html":
            found[name] = "tells the seconds as well"
        elif path.suffix == ".pth":
            found[re.sub(r"-.*", "", name)] = "a checkpoint of RecBole's, named after the time"
        elif path.name in ("metrics.json", "facts.json", "fit.json", "log.json", "reasoning.json"):
            found[name] = timeless(json.loads(path.read_text()))
        else:
            found[name] = path.read_bytes()
    return found


def test_a_run_killed_at_ten_moments_ends_like_one_that_was_left_alone(toy_path, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(BIG)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = (many_stops(toy_path, tmp_path / name / "run") for name in ("whole", "killed"))
    notes = tmp_path / "whole" / "moments"
    assert ended(context, whole, notes) == 0
    moments = list(dict.fromkeys(notes.read_text().splitlines()))
    assert len(moments) > 80
    dice, tenth = random.Random(11), len(moments) / 10
    chosen = [dice.randrange(int(number * tenth), int((number + 1) * tenth)) for number in range(10)]
    for number in chosen:
        left = ended(context, killed, tmp_path / "killed" / "moments", die_before=moments[number])
        assert left == -signal.SIGKILL, f"it never came to {moments[number]!r}"
    assert ended(context, killed, tmp_path / "killed" / "moments") == 0
    last = (tmp_path / "killed" / "moments").read_text()
    assert "codes.safetensors" not in last and "checkpoint-" not in last, "what was finished was not done again"
    expected, found = content(tmp_path / "whole" / "run"), content(tmp_path / "killed" / "run")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name


def cut_short(monkeypatch, calls: int):
    """Let evaluations after ``calls`` be interrupted; return the list of those that were made."""
    made = []

    def counted(trainer, loader, mask, show_progress, keep):
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append(loader)
        return evaluate(trainer, loader, mask, show_progress, keep)

    monkeypatch.setattr(experiment, "evaluate", counted)
    return made


@pytest.mark.parametrize("model", ["OneRecThink", "BPR", "SASRec", "Random", "ItemKNN"])
def test_an_evaluation_that_was_made_is_not_made_again_and_nothing_is_fitted_again(
    model, toy_path, tmp_path, monkeypatch
):
    whole = run(model, "toy", config_dict=many_stops(toy_path, tmp_path / "whole", model))["metrics"]
    broken = many_stops(toy_path, tmp_path / "broken", model)
    made = cut_short(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(model, "toy", config_dict=broken)
    assert len(made) == 2

    def forbidden(*_, **__):
        raise AssertionError("fitted again")

    monkeypatch.setattr("recbole.trainer.Trainer._train_epoch", forbidden)
    monkeypatch.setattr("recbole_think.stages.recommendation.Recommendation.run", forbidden)
    monkeypatch.setattr(experiment, "_popularity", lambda *_: None)
    again = cut_short(monkeypatch, 99)
    found = run(model, "toy", config_dict=broken)["metrics"]
    assert len(again) == 1
    for part in ("valid", "test", "test_other_masking", "standard_error", "samples", "illegal_rate"):
        assert found[part] == whole[part], part
    for name in ("ranks.tsv", "evaluation/valid.json", "evaluation/test.json", "evaluation/test_other_masking.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


LONG = {"eval_step": 1, "epochs": 5, "stopping_step": 2, "learning_rate": 0.01}


@pytest.mark.parametrize("model", ["SASRec", "SASRecAll", "BPR", "GRU4Rec", "NARM"])
@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_an_interrupted_fit_of_recboles_goes_on_and_ends_with_the_same_weights(
    model, epoch, toy_path, tmp_path, monkeypatch
):
    given = {name: {**many_stops(toy_path, tmp_path / name, model), **LONG} for name in ("whole", "broken")}
    whole = run_opened(model, given["whole"])
    trained, fit = [], Trainer._train_epoch

    def cut(trainer, loader, number, *rest, **more):
        if number == epoch:
            next(iter(loader))  # some random numbers are drawn in vain
            raise KeyboardInterrupt
        return fit(trainer, loader, number, *rest, **more)

    def counted(trainer, loader, number, *rest, **more):
        trained.append(number)
        return fit(trainer, loader, number, *rest, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_train_epoch", cut)
        run(model, "toy", config_dict=given["broken"])
    for path in (tmp_path / "broken" / "checkpoints").glob("*.pth"):
        path.write_bytes(b"cut off while it was written")
    monkeypatch.setattr(Trainer, "_train_epoch", counted)
    found = run_opened(model, given["broken"])
    assert trained and trained[0] == epoch, "what was trained is not trained again"
    for one, other in zip(whole.trainer.model.parameters(), found.trainer.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (found.metrics["valid"], found.metrics["test"]) == (whole.metrics["valid"], whole.metrics["test"])
    [kept] = (tmp_path / "broken" / "checkpoints").iterdir()
    assert kept == resume.checkpoint_of(tmp_path / "broken"), "nothing else is left behind"


def test_a_fit_cut_off_after_its_last_validation_trains_nothing_more(toy_path, tmp_path, monkeypatch):
    given = {name: {**many_stops(toy_path, tmp_path / name, "SASRec"), **LONG} for name in ("whole", "broken")}
    whole = run("SASRec", "toy", config_dict=given["whole"])["metrics"]
    with monkeypatch.context() as patch:
        patch.setattr("recbole.trainer.Trainer._add_hparam_to_tensorboard", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            run("SASRec", "toy", config_dict=given["broken"])
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(experiment, "_popularity", lambda *_: None)
    spent = torch.load(tmp_path / "broken" / "checkpoints" / "going-on.pt", weights_only=True)["seconds"]
    found = run("SASRec", "toy", config_dict=given["broken"])["metrics"]
    assert (found["valid"], found["test"]) == (whole["valid"], whole["test"])
    assert found["seconds"]["fit"] >= round(spent, 2) > 0, "what it cost before it was cut off counts"
    (tmp_path / "broken" / "metrics.json").unlink()
    again = run("SASRec", "toy", config_dict=given["broken"])["metrics"]
    assert again["seconds"]["fit"] >= round(spent, 2), "and when the finished fit is read back"


def test_a_damaged_state_of_a_fit_is_refused_by_name(toy_path, tmp_path):
    given = many_stops(toy_path, tmp_path / "run", "BPR")
    folder = tmp_path / "run" / "checkpoints"
    run("BPR", "toy", config_dict=given)
    for path in (tmp_path / "run").glob("*.json"):
        if path.name != "config.json":
            path.unlink()
    (folder / "going-on.pt").write_bytes(b"half")
    with pytest.raises(InputError, match=r"going-on\.pt is damaged"):
        run("BPR", "toy", config_dict=given)


def test_an_evaluation_of_other_weights_or_other_data_is_made_again(tmp_path):
    import numpy as np

    from recbole_think.evaluation import Scores

    path, calls = tmp_path / "evaluation" / "test.json", []

    def make(keep):
        calls.append(1)
        keep.opened()
        return Scores(
            {"ndcg@5": 0.1 + 0.2}, {"ndcg@5": 1 / 3}, np.array([4, 2]), np.array([0, 7], np.int32), 0.0, [[3]]
        )

    first = resume.evaluated(path, {"weights": "a", "data_fingerprint": "x"}, make)
    again = resume.evaluated(path, {"weights": "a", "data_fingerprint": "x"}, make)
    assert len(calls) == 1
    assert (again.metrics, again.standard_error, again.illegal_rate, again.lists) == (
        first.metrics, first.standard_error, first.illegal_rate, first.lists,
    )  # fmt: skip
    assert again.users.tolist() == [4, 2] and again.ranks.tolist() == [0, 7] and again.ranks.dtype == np.int32
    resume.evaluated(path, {"weights": "b", "data_fingerprint": "x"}, make)
    resume.evaluated(path, {"weights": "b", "data_fingerprint": "y"}, make)
    assert len(calls) == 3
    assert [file.name for file in path.parent.iterdir()] == ["test.json"], "shards go once the record is whole"


def test_the_digest_of_weights_tells_any_two_apart(tmp_path):
    one, same, other = (torch.nn.Linear(3, 2) for _ in range(3))
    same.load_state_dict(one.state_dict())
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        other.bias[1] = torch.nextafter(other.bias[1], torch.tensor(9.0))
    assert resume.weights_digest(one) == resume.weights_digest(same) != resume.weights_digest(other)
    assert resume.weights_digest(one.to(torch.bfloat16)) != resume.weights_digest(same)


def test_a_fit_of_other_data_is_refused(toy_path, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        cut_short(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            run("BPR", "toy", config_dict=many_stops(toy_path, tmp_path / "run", "BPR"))
    path = tmp_path / "run" / "fit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_fingerprint": "of other data"}))
    with pytest.raises(InputError, match="data_fingerprint='of other data'"):
        run("BPR", "toy", config_dict=many_stops(toy_path, tmp_path / "run", "BPR"))
