"""The queue by itself, with clocks that the tests turn."""

import json
import os
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from recbole_think.cluster import leases
from recbole_think.cluster.job import Rules, read_job, write_job
from recbole_think.cluster.leases import Lease
from recbole_think.cluster.queue import Queue, counted
from recbole_think.cluster.status import status, told
from recbole_think.cluster.worker import work
from recbole_think.errors import InputError
from tests.cluster.toy import NAME, Squares, joined, squares, toy_job

LEASE_S = 100.0


class Clock:
    """Seconds that pass when a test says so; every worker has its own, and they are years apart."""

    def __init__(self, now: float):
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def job(tmp_path):
    return toy_job(tmp_path / "job", shards=1, lease_s=LEASE_S)


@pytest.fixture
def two(job):
    """Two workers of a job of one shard, their clocks thirty years apart, and those clocks."""
    clocks = Clock(1e9), Clock(5.0)
    return [Queue(job, name, clock) for name, clock in zip(("a", "b"), clocks, strict=True)], clocks


def made(queue, lease):
    task = Squares()
    return queue.finish(lease, lambda folder: task.write(task.compute(lease.shard), folder))


def test_one_worker_gives_every_row_once_in_order(tmp_path):
    job, task = toy_job(tmp_path / "job", shards=7), Squares()
    assert work(Queue(job, "a"), task).made == task.made == 7
    assert joined(job, tmp_path / "out") == squares(7)
    assert work(Queue(job, "b"), task).made == 0, "a finished job leaves nothing to do"


def test_a_shard_is_had_by_one_worker_at_a_time(two):
    (one, other), _ = two
    assert one.claim() is not None
    assert other.claim() is None and one.claim() is None


def test_all_who_look_before_any_takes_still_get_different_shards(tmp_path):
    job = toy_job(tmp_path / "job", shards=3)
    queues = [Queue(job, name) for name in "abcd"]
    seen = {queue.worker: queue.look() for queue in queues}
    for queue in queues:
        queue.look = lambda queue=queue: seen[queue.worker]  # what it knows is older than what the others did
    taken = [queue.claim() for queue in queues]
    assert sorted(lease.shard for lease in taken if lease) == [0, 1, 2] and taken[3] is None


def test_a_lease_is_stale_by_the_clock_of_whoever_looks_and_by_its_count_alone(two):
    (one, other), (_, clock) = two
    lease = one.claim()
    assert other.claim() is None
    for _ in range(3):
        clock.now += 0.9 * LEASE_S
        lease.beat()
        assert other.claim() is None, "it is renewed"
    clock.now += 0.9 * LEASE_S
    assert other.claim() is None
    clock.now += 0.2 * LEASE_S
    taken = other.claim()
    assert taken is not None and taken.holder.losses == 1 and lease.lost and not taken.lost


def test_a_worker_does_not_end_over_a_lease_that_becomes_stale_between_two_looks(tmp_path):
    job, seconds = toy_job(tmp_path / "job", shards=1, lease_s=0.1), count(0, 0.11)  # a lease between any two looks
    Queue(job, "gone").claim()
    assert work(Queue(job, "b", lambda: next(seconds)), Squares()).made == 1


def test_a_worker_that_has_just_come_waits_a_whole_lease_whatever_its_clock_says(two):
    (one, other), (first, _) = two
    one.claim()
    first.now += 1e6
    assert other.claim() is None


def test_times_of_files_say_nothing(two, job):
    (one, other), (_, clock) = two
    lease = one.claim()
    other.look()
    for path in [*lease.folder.iterdir(), lease.folder]:
        os.utime(path, (0, 0))
    assert other.claim() is None, "a lease is not stale because its file looks old"
    clock.now += 1.1 * LEASE_S
    for path in [*lease.folder.iterdir(), lease.folder]:
        os.utime(path, (4e9, 4e9))
    assert other.claim() is not None, "nor is it alive because its file looks new"


def test_of_two_who_believe_to_hold_a_shard_the_first_result_stays(two, job, tmp_path):
    (one, other), (_, clock) = two
    asleep = one.claim()
    other.look()
    clock.now += 1.1 * LEASE_S
    awake = other.claim()
    assert made(other, awake)
    assert not made(one, asleep)
    assert one.look()[0].state == "done" and one.results[0]["worker"] == "b"
    assert joined(job, tmp_path / "out") == squares(1)


def test_a_sleeper_that_is_first_to_finish_is_kept_too(two, job, tmp_path):
    (one, other), (_, clock) = two
    asleep = one.claim()
    other.look()
    clock.now += 1.1 * LEASE_S
    awake = other.claim()
    asleep.beat()  # it goes on counting on a lease that is no longer the newest
    assert made(one, asleep) and not made(other, awake)
    assert joined(job, tmp_path / "out") == squares(1)


def test_what_is_released_can_be_had_at_once_and_counts_as_no_loss(two):
    (one, other), _ = two
    with one.claim() as lease:
        lease.release()
    taken = other.claim()
    assert taken is not None and taken.holder.losses == taken.holder.failures == 0


@pytest.mark.parametrize("after", ["take", "return"])
def test_interrupted_between_taking_a_shard_and_working_on_it_a_worker_frees_it(tmp_path, monkeypatch, after):
    job = toy_job(tmp_path / "job", shards=1)
    queue, place = Queue(job, "a"), (leases, "take") if after == "take" else (Lease, "__enter__")
    whole = getattr(*place)

    def interrupted(*arguments):
        whole(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            work(queue, Squares())
    assert Queue(job, "b").look()[0].holder.state == "released"
    assert Queue(job, "b").claim() is not None


def test_nobody_releases_the_lease_of_another(two):
    (one, other), _ = two
    seen = other.look()
    one.claim()
    other.look = lambda: seen
    assert other.claim() is None
    other.let_go()
    assert one.look()[0].state == "working"


def test_a_lease_is_renewed_while_its_holder_computes(tmp_path):
    queue = Queue(toy_job(tmp_path / "job", lease_s=0.05), "a")
    with queue.claim() as lease:
        beat = leases.read(tmp_path / "job" / "leases", lease.shard, 1).beat
        while leases.read(tmp_path / "job" / "leases", lease.shard, 1).beat < beat + 2:
            pass


def test_a_shard_that_fails_is_left_alone_after_so_many_tries_and_the_others_go_on(tmp_path):
    job, task = toy_job(tmp_path / "job", shards=6, tries=3, lease_s=1), Squares(bad=frozenset({2}))
    assert work(Queue(job, "a"), task).made == 5
    found = status(Queue(job, "s"))
    assert (found["done"], found["failed"]) == (5, 1)
    [trouble] = found["troubles"]
    assert trouble["failures"] == 3 and trouble["reason"] == "a: ValueError: no squares in shard 2"
    assert "shard 2 (failed; 3 failures, 0 lost workers), last a: ValueError: no squares" in told(found)
    holder = leases.read(job.folder / "leases", 2, 3)
    assert "tests/cluster/toy.py" in holder.details, "where it failed is kept"
    with pytest.raises(
        InputError, match=r"1 of 6 shards are missing: 2; (.|\n)*shard 2 has failed, last a: ValueError"
    ):
        joined(job, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failed_shards_are_tried_again_when_that_is_asked_for(tmp_path):
    job = toy_job(tmp_path / "job", shards=2, tries=1)
    work(Queue(job, "a"), Squares(bad=frozenset({1})))
    assert work(Queue(job, "b"), Squares()).made == 0
    assert Queue(job, "c").retry() == [1] and Queue(job, "c").retry() == []
    work(Queue(job, "b"), Squares())
    assert joined(job, tmp_path / "out") == squares(2)


def test_a_worker_with_which_nothing_succeeds_stops_before_it_spoils_all(tmp_path):
    job = toy_job(tmp_path / "job", shards=50, tries=2)
    with pytest.raises(InputError, match=r"3 shards in a row failed here, shard .* with: a: ValueError: no squares"):
        work(Queue(job, "a"), Squares(bad=frozenset(range(50))))
    assert counted(Queue(job, "s").look()) == {"free": 50}, "each has been tried once at most"
    work(Queue(job, "b"), Squares())
    assert joined(job, tmp_path / "out") == squares(50)


def test_a_shard_at_which_workers_are_lost_again_and_again_is_left_alone(tmp_path):
    job, clock = toy_job(tmp_path / "job", shards=1, losses=3, lease_s=LEASE_S), Clock(0.0)
    for name in "abc":
        queue = Queue(job, name, clock)
        queue.look()
        clock.now += 1.1 * LEASE_S
        assert queue.claim() is not None
    queue.look()
    clock.now += 1.1 * LEASE_S
    assert queue.claim() is None
    [standing] = queue.look()
    assert standing.state == "failed" and standing.holder.reason == "c: was lost while at work on it"


def test_a_full_disk_ends_the_worker_and_frees_the_shard(tmp_path):
    class Full(Squares):
        def write(self, made, folder):
            (folder / NAME).write_text("half of it")
            raise OSError(28, "No space left on device")

    job = toy_job(tmp_path / "job", shards=1)
    with pytest.raises(InputError, match=r"no room to write .*000000"):
        work(Queue(job, "a"), Full())
    assert not list((job.folder / "results").iterdir()), "nothing half-written"
    assert [one.state for one in Queue(job, "b").look()] == ["free"]
    work(Queue(job, "b"), Squares())
    assert joined(job, tmp_path / "out") == squares(1)


def test_an_interrupted_worker_frees_its_shard(tmp_path):
    class Interrupted(Squares):
        def compute(self, shard):
            raise KeyboardInterrupt

    job = toy_job(tmp_path / "job", shards=1)
    with pytest.raises(KeyboardInterrupt):
        work(Queue(job, "a"), Interrupted())
    lease = Queue(job, "b").claim()
    assert lease is not None and lease.holder.failures == lease.holder.losses == 0


def test_a_result_of_another_job_is_refused_by_workers_status_and_merge(tmp_path):
    ours, theirs = toy_job(tmp_path / "ours"), toy_job(tmp_path / "theirs", kind="cubes")
    work(Queue(theirs, "x"), Squares())
    shutil.copytree(theirs.folder / "results" / "000003", ours.folder / "results" / "000003")
    for refuse in (Queue(ours, "a").claim, Queue(ours, "a").look, lambda: joined(ours, tmp_path / "out")):
        with pytest.raises(InputError, match=f"000003 holds shard 3 of job {theirs.digest}, and this is .*ours"):
            refuse()


def test_a_result_under_the_number_of_another_shard_is_refused(tmp_path):
    job = toy_job(tmp_path / "job")
    work(Queue(job, "a"), Squares())
    shutil.rmtree(job.folder / "results" / "000001")
    shutil.copytree(job.folder / "results" / "000002", job.folder / "results" / "000001")
    with pytest.raises(InputError, match="000001 holds shard 2"):
        Queue(job, "a").look()


@pytest.mark.parametrize("harm", ["changed", "gone", "facts"])
def test_a_damaged_result_is_named_and_made_again_once_it_is_deleted(tmp_path, harm):
    job = toy_job(tmp_path / "job", lease_s=0.2)
    work(Queue(job, "a"), Squares())
    folder = job.folder / "results" / "000002"
    path = folder / ("facts.json" if harm == "facts" else NAME)
    path.unlink() if harm == "gone" else path.write_text("{")
    with pytest.raises(InputError, match=f"{path} .*delete {folder}, and work on the job again"):
        joined(job, tmp_path / "out")
    shutil.rmtree(folder)
    work(Queue(job, "b"), Squares())
    assert joined(job, tmp_path / "out") == squares(5)


def test_an_unfinished_job_is_not_merged_and_what_is_missing_is_named(tmp_path):
    job = toy_job(tmp_path / "job", shards=30)
    with pytest.raises(InputError, match=r"30 of 30 shards are missing: 0, 1, .*, 9, \.\.\.; start workers"):
        joined(job, tmp_path / "out")


def test_the_same_plan_again_changes_nothing_and_another_is_refused(tmp_path):
    job = toy_job(tmp_path / "job")
    before = {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")}
    assert toy_job(tmp_path / "job") == job
    assert {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")} == before
    with pytest.raises(InputError, match="job holds another job: kind is 'squares' there and 'cubes' here"):
        toy_job(tmp_path / "job", kind="cubes")
    with pytest.raises(InputError, match=r"rules is .*120.* there and .*5.* here"):
        toy_job(tmp_path / "job", lease_s=5)


def test_a_folder_that_is_no_job_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"is no job folder: it has no facts.json; plan the job first"):
        read_job(tmp_path / "mine")
    (tmp_path / "mine" / "thesis.tex").write_text("work of years")
    with pytest.raises(InputError, match=r"is no job folder .* and is not empty"):
        toy_job(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is no job folder"):
        toy_job(tmp_path / "file")


def test_facts_or_files_of_a_job_that_were_changed_are_refused(tmp_path):
    facts = {"task": "toy", "shards": 2}
    job, fresh = write_job(tmp_path / "job", facts, Rules(), lambda draft: (draft / "extra").write_text("x"))
    assert fresh
    path = job.folder / "facts.json"
    whole = path.read_text()
    path.write_text(json.dumps({**json.loads(whole), "shards": 3}))
    with pytest.raises(InputError, match=r"facts\.json is not what was written there"):
        read_job(job.folder)
    path.write_text(whole)
    (job.folder / "extra").write_text("y")
    with pytest.raises(InputError, match="extra is not what was written there"):
        read_job(job.folder)


@pytest.mark.parametrize("rules", [{"lease_s": 0}, {"tries": 0}, {"losses": 0}])
def test_rules_that_make_no_sense_are_refused(rules, tmp_path):
    with pytest.raises(InputError, match=f"--{next(iter(rules))} must be"):
        toy_job(tmp_path / "job", **rules)
    assert not (tmp_path / "job").exists()


def test_a_storage_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="job cannot be written"):
        toy_job(tmp_path / "file" / "job")


def test_what_was_put_in_place_though_the_answer_was_lost_counts_as_first(tmp_path, monkeypatch):
    whole = Path.rename

    def renamed_but_told_otherwise(path, target):
        whole(path, target)
        raise FileNotFoundError(2, "No such file or directory")  # as NFS says of a request it repeats

    queue = Queue(toy_job(tmp_path / "job", shards=1), "a")
    monkeypatch.setattr(Path, "rename", renamed_but_told_otherwise)
    lease = queue.claim()
    assert lease is not None and made(queue, lease)


def test_a_lease_that_cannot_be_read_is_taken_over_in_time(two):
    (one, other), (_, clock) = two
    lease = one.claim()
    (lease.folder / leases.NAME).write_text("{")
    assert other.claim() is None
    clock.now += 1.1 * LEASE_S
    assert other.claim() is not None


def test_status_says_who_is_at_work_and_how_long_it_will_take(two, tmp_path):
    job, clock = toy_job(tmp_path / "more", shards=4, lease_s=LEASE_S), Clock(0.0)
    queue = Queue(job, "a", clock)
    lease = queue.claim()
    clock.now += 8
    made(queue, lease)
    second = queue.claim()
    clock.now += 3
    second.beat()
    found = status(Queue(job, "s", clock))
    assert (found["done"], found["working"], found["free"], found["failed"]) == (1, 1, 2, 0)
    assert found["seconds_a_shard"] == 8 and found["seconds_left"] == 24
    [at_work] = found["at_work"]
    assert (at_work["shard"], at_work["worker"], at_work["seconds"]) == (second.shard, "a", 3)
    assert "toy, job" in told(found) and "some 24 s left" in told(found) and "for 3 s when last heard of" in told(found)


def test_whoever_looks_twice_sees_who_was_silent(two):
    (one, other), (_, clock) = two
    one.claim()
    other.look()
    clock.now += 40
    [standing] = other.look()
    assert standing.state == "working" and standing.silent_s == 40
    assert replace(standing, silent_s=0.0) == Queue(other.job, "c").look()[0]
