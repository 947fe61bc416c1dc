"""A board run as a person runs it: real processes, killed, refused, failing, and run again."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_think.leaderboard.running import THREADS, environment, free, last_words
from tests.toy import write_toy

ROOT = Path(__file__).resolve().parent.parent.parent
BOARD = """
dataset: toy
seeds: [1]
options: {topk: [5, 10], show_progress: false}
rows:
  Pop: {model: Pop, minutes: 0.1}
  wrong: {model: BPR, options: {embedding_size: -3}}
  what follows: {model: CoOccurrence, seeds: [1, 2], minutes: 0.1}
"""
LONG = "  long: {model: BPR, options: {epochs: 100000, stopping_step: 100000}}"


@pytest.fixture
def place(tmp_path):
    write_toy(tmp_path / "data")
    (tmp_path / "small.yaml").write_text(BOARD)
    return tmp_path


def command(place, *words):
    return [
        sys.executable, str(ROOT / "baselines" / "run_board.py"), str(place / "small.yaml"),
        f"--data_path={place / 'data'}", f"--folder={place / 'runs'}", f"--results={place / 'results'}", *words,
    ]  # fmt: skip


def run(place, *words):
    environment = {**os.environ, "RECBOLE_THINK_CACHE": str(place / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command(place, *words), capture_output=True, text=True, env=environment, cwd=place)


def lines(place):
    with (place / "results" / "small.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_board_makes_what_is_missing_and_a_failing_row_does_not_stop_it(place):
    done = run(place, "--jobs=2")
    assert done.returncode == 1, done.stderr
    assert "wrong, seed 1, failed: " in done.stderr and ".log" in done.stderr
    made = {(line["row"], line["seed"], line["mask_history"]) for line in lines(place)}
    assert made == {
        (row, seed, masked) for row, seed in (("Pop", "1"), ("what follows", "1"), ("what follows", "2"))
        for masked in ("True", "False")
    }  # fmt: skip
    told = (place / "results" / "small.md").read_text()
    assert "## Failed" in told and "**wrong**" in told and ".log" in told and "wrong, seed 1" in told
    html = (place / "results" / "small.html").read_text()
    assert "log: " in html and "what follows" in html
    before = {path: path.stat().st_mtime_ns for path in (place / "runs" / "small").glob("*/metrics.json")}
    again = run(place)
    assert again.returncode == 1 and "wrong, seed 1, failed" in again.stderr, "what failed is tried again"
    after = {path: path.stat().st_mtime_ns for path in (place / "runs" / "small").glob("*/metrics.json")}
    assert before == after, "and nothing else"
    (place / "small.yaml").write_text(BOARD.replace("embedding_size: -3", "embedding_size: 8, epochs: 1"))
    mended = run(place)
    assert mended.returncode == 0, mended.stderr
    assert "## Failed" not in (place / "results" / "small.md").read_text()
    assert {line["row"] for line in lines(place)} == {"Pop", "wrong", "what follows"}


@pytest.mark.slow
def test_a_row_whose_options_changed_is_made_again_in_the_place_of_the_old_one(place):
    assert run(place, "--rows=what follows").returncode == 0
    (place / "small.yaml").write_text(BOARD.replace("minutes: 0.1}\n", "minutes: 0.1, options: {window: 1}}\n"))
    assert run(place, "--rows=what follows").returncode == 0
    assert len(lines(place)) == 4 and all("--window=1" in line["command"] for line in lines(place))


@pytest.mark.slow
def test_a_row_that_takes_the_runs_of_others_waits_for_them_and_says_which_is_not_here(place):
    taught = """  together:
    model: OneRecThink
    runs_of: {distillation.teachers: [what follows]}
    options:
      {stages: [recommendation], recommendation.epochs: 1, backbone: {name: tiny}, itemic: {levels: 2, size: 8},
       recommendation.compile: never, decode.num_beams: 10}
"""
    (place / "small.yaml").write_text(BOARD.replace("rows:\n", f"rows:\n{taught}"))
    done = run(place, "--jobs=2", "--rows=together,what follows")
    assert done.returncode == 0, done.stderr
    told = {line["command"] for line in lines(place) if line["row"] == "together"}
    assert all("<run of what follows, seed 1>" in command and str(place) not in command for command in told)
    [folder] = (place / "runs" / "small").glob("what-follows-1-??????")
    config = json.loads(next((place / "runs" / "small").glob("together-1-*/config.json")).read_text())
    assert config["distillation"]["teachers"] == [str(folder)]
    folder.rename(place / "elsewhere")
    results = place / "results" / "small.csv"
    results.write_text("".join(line for line in results.open() if not line.startswith("together,")))
    again = run(place, "--rows=together")
    assert again.returncode == 1
    assert "takes the run of row 'what follows', seed 1, which is not in" in again.stderr


def test_a_killed_board_keeps_what_is_finished_and_goes_on(place):
    environment = {**os.environ, "RECBOLE_THINK_CACHE": str(place / "cache"), "PYTHONPATH": str(ROOT)}
    (place / "small.yaml").write_text(BOARD.replace("  wrong: {model: BPR, options: {embedding_size: -3}}\n", ""))
    process = subprocess.Popen(command(place), env=environment, cwd=place, stderr=subprocess.DEVNULL)
    results = place / "results" / "small.csv"
    deadline = time.monotonic() + 240
    while not results.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = {(line["row"], line["seed"]) for line in lines(place)}
    assert first and len(first) < 3
    done = run(place)
    assert done.returncode == 0, done.stderr
    assert len({(line["row"], line["seed"]) for line in lines(place)}) == 3


def test_a_board_that_is_asked_to_end_ends_its_rows(place):
    (place / "small.yaml").write_text(BOARD.replace("  wrong: {model: BPR, options: {embedding_size: -3}}", LONG))
    environment = {**os.environ, "RECBOLE_THINK_CACHE": str(place / "cache"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command(place, "--rows=long"), env=environment, cwd=place, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(place.glob("runs/small/long-1-*/.lock")) and time.monotonic() < deadline:
        time.sleep(0.1)
    [folder] = place.glob("runs/small/long-1-??????")
    assert not free(folder)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert free(folder) and not (place / "results").joinpath("small.csv").is_file()


def test_two_boards_cannot_write_the_same_results_at_once(place):
    (place / "results").mkdir()
    with (place / "results" / ".small.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(place)
    assert done.returncode == 2 and "another process is writing" in done.stderr
    assert not (place / "runs").exists()


def test_what_cannot_be_asked_for_ends_with_two(place):
    for words, said in ((["--rows=Pup"], "no row 'Pup'"), (["--jobs=0"], "--jobs"), (["--quick"], "no quick variant")):
        done = run(place, *words)
        assert done.returncode == 2 and said in done.stderr and not (place / "results" / "small.csv").exists()


def test_the_plan_leaves_out_minutes_nobody_measured(place):
    assert run(place, "--rows=Pop").returncode == 0
    path = place / "results" / "small.csv"
    made = lines(place)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, made[0])
        writer.writeheader()
        writer.writerows({**line, "seconds_eval": ""} for line in made)
    done = run(place, "--plan")
    assert done.returncode == 0, done.stderr


def test_the_plan_says_what_is_missing_and_runs_nothing(place):
    done = run(place, "--plan")
    assert done.returncode == 0 and done.stdout.count("missing\n") == 4
    assert not (place / "runs").exists()


def test_a_run_folder_somebody_works_in_is_not_free(tmp_path):
    assert free(tmp_path)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not free(tmp_path)
    assert free(tmp_path)


def test_the_last_words_of_a_log_are_those_after_the_last_bar(tmp_path):
    log = tmp_path / "log"
    log.write_text("first\n 10%\r 20%\rerror: no such file\n\n")
    assert last_words(log) == "error: no such file"
    log.write_text("")
    assert last_words(log) == ""
    log.write_text(json.dumps("x" * 9000))
    assert len(last_words(log)) == 500


def test_jobs_share_the_cores_unless_the_board_was_told_how_many_threads_to_use(monkeypatch):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert {name: environment(4)[name] for name in THREADS} == dict.fromkeys(THREADS, "4")
    assert not set(environment(1)) & set(THREADS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert set(environment(4)) & set(THREADS) == {"OMP_NUM_THREADS"}
