"""Workers as real processes: killed, paused, told to end, with clocks that are years apart; and every row once."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recbole_think.cluster.job import read_job
from recbole_think.cluster.queue import Queue, counted
from recbole_think.cluster.worker import work
from tests.cluster.toy import Squares, at_work, begin, joined, squares, toy_job, until

YEARS = 3600 * 24 * 365
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}  # of the disk


def ended(process: subprocess.Popen, code: int = 0) -> str:
    """What a worker that ends like this has said."""
    said = process.communicate(timeout=120)[1]
    assert process.returncode == code, said
    return said


def test_killed_at_random_moments_others_take_over_and_every_row_is_there_once(tmp_path):
    job, dice = toy_job(tmp_path / "job", shards=24, lease_s=0.5, losses=99), random.Random(20)
    workers = [begin(job, f"w{number}", 0.05, skew_s=number * 30 * YEARS) for number in range(3)]
    until(lambda: at_work(job))
    for number in range(3, 7):
        time.sleep(dice.uniform(0.02, 0.4))
        chosen = dice.choice([one for one in workers if one.poll() is None] or workers)
        chosen.kill()
        workers.append(begin(job, f"w{number}", 0.05, skew_s=-number * 10 * YEARS))
    killed = [one for one in workers if one.wait(120) == -signal.SIGKILL]
    assert killed and {one.returncode for one in workers} <= {0, -signal.SIGKILL}
    assert joined(job, tmp_path / "out") == squares(24)


def test_a_worker_paused_beyond_its_lease_wakes_up_and_harms_nothing(tmp_path):
    job = toy_job(tmp_path / "job", shards=2, lease_s=0.6)
    sleeper = begin(job, "sleeper", 0.8, skew_s=5 * YEARS)
    until(lambda: "sleeper" in at_work(job))
    sleeper.send_signal(signal.SIGSTOP)
    assert '"made": 2' in ended(begin(job, "awake", skew_s=-5 * YEARS)), "it has taken the sleeper's shard as well"
    before = {path: path.read_bytes() for path in (job.folder / "results").rglob("*") if path.is_file()}
    sleeper.send_signal(signal.SIGCONT)
    said = ended(sleeper)
    assert '"made": 0, "late": 1' in said and "was done by another worker meanwhile" in said
    assert {path: path.read_bytes() for path in (job.folder / "results").rglob("*") if path.is_file()} == before
    assert joined(job, tmp_path / "out") == squares(2)


def test_a_worker_that_is_told_to_end_frees_its_shard_at_once(tmp_path):
    job = toy_job(tmp_path / "job", shards=2, lease_s=1e6)  # nobody could wait until it is stale
    ending = begin(job, "ending", 60)
    until(lambda: "ending" in at_work(job))
    ending.terminate()
    ending.wait(60)
    work(Queue(job, "other"), Squares())
    assert joined(job, tmp_path / "out") == squares(2)


def test_twenty_who_rush_at_one_shard_leave_it_to_one_of_them(tmp_path):
    for turn in range(10):
        job = toy_job(tmp_path / f"job-{turn}", shards=1)
        queues, taken = [Queue(job, f"w{number}") for number in range(20)], []
        barrier = threading.Barrier(20)

        def rush(queue):
            barrier.wait()  # noqa: B023 (joined within the turn)
            taken.append(queue.claim())  # noqa: B023

        threads = [threading.Thread(target=rush, args=(queue,)) for queue in queues]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([lease for lease in taken if lease]) == 1 and len(taken) == 20


def dies_before(job_folder: Path, moment: int) -> None:
    """Work in this process, and die by SIGKILL right before a change of the disk, counted from the start."""
    seen = 0

    def watch(event, arguments):
        nonlocal seen
        writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if event in CHANGES and writes and str(job_folder) in str(arguments[0]):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    job = read_job(job_folder)
    sys.addaudithook(watch)
    work(Queue(job, "mortal"), Squares())


def test_killed_right_before_any_change_of_the_disk_the_next_worker_ends_the_job(tmp_path):
    fork, moment, last = multiprocessing.get_context("fork"), 0, -signal.SIGKILL
    while last == -signal.SIGKILL:
        moment += 1
        job = toy_job(tmp_path / "job", shards=2, lease_s=0.05)
        mortal = fork.Process(target=dies_before, args=(job.folder, moment))
        mortal.start()
        mortal.join(60)
        last = mortal.exitcode
        work(Queue(job, "next"), Squares())
        assert counted(Queue(job, "s").look()) == {"done": 2}
        assert joined(job, tmp_path / "out") == squares(2)
        for folder in ("job", "out"):
            shutil.rmtree(tmp_path / folder)
    assert last == 0 and moment > 10


@pytest.mark.parametrize("count", [1, 4])
def test_many_workers_give_what_one_gives(tmp_path, count):
    job = toy_job(tmp_path / "job", shards=12)
    for process in [begin(job, f"w{number}") for number in range(count)]:
        ended(process)
    assert joined(job, tmp_path / "out") == squares(12)
