import threading
import time
from concurrent.futures import Future

import pytest

from recbole_think.serving.batching import Batcher, ClosedError, FullError


class Gate:
    """Work that waits until it is let through, and remembers its batches."""

    def __init__(self):
        self.open, self.begun, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, questions):
        self.begun.set()
        self.open.wait(10)
        self.batches.append(list(questions))
        if any(question == "bad" for question in questions):
            raise ValueError("bad")
        return [f"answer to {question}" for question in questions]


def held(gate, batcher) -> Future:
    """Ask something that keeps the batcher busy until the gate opens."""
    first = batcher.ask("first", 10)
    assert gate.begun.wait(10)
    return first


def test_who_waits_at_the_same_moment_is_answered_together_in_order():
    gate = Gate()
    seen = []
    batcher = Batcher(gate, together=3, waiting=10, seen=lambda size, seconds: seen.append(size))
    first = held(gate, batcher)
    replies = [batcher.ask(number, 10) for number in range(5)]
    assert len(batcher) == 5
    gate.open.set()
    assert [reply.result(10) for reply in replies] == [f"answer to {number}" for number in range(5)]
    assert first.result(10) == "answer to first"
    batcher.close()
    assert gate.batches == [["first"], [0, 1, 2], [3, 4]] and seen == [1, 3, 2]


def test_who_finds_the_queue_full_is_told_at_once_and_later_there_is_room():
    gate = Gate()
    batcher = Batcher(gate, together=1, waiting=2)
    held(gate, batcher)
    kept = [batcher.ask(number, 10) for number in range(2)]
    begun = time.monotonic()
    with pytest.raises(FullError):
        batcher.ask(2, 10)
    assert time.monotonic() - begun < 1
    gate.open.set()
    assert [reply.result(10) for reply in kept] == ["answer to 0", "answer to 1"]
    assert batcher.ask("later", 10).result(10) == "answer to later"
    batcher.close()


def test_who_would_be_answered_too_late_is_not_answered():
    gate = Gate()
    batcher = Batcher(gate, together=4, waiting=10)
    held(gate, batcher)
    late, patient = batcher.ask("late", 0.01), batcher.ask("patient", 10)
    time.sleep(0.05)
    gate.open.set()
    with pytest.raises(TimeoutError):
        late.result(10)
    assert patient.result(10) == "answer to patient"
    batcher.close()
    assert ["patient"] in gate.batches


def test_one_bad_question_fails_alone():
    gate = Gate()
    batcher = Batcher(gate, together=4, waiting=10)
    held(gate, batcher)
    good, bad, other = batcher.ask("good", 10), batcher.ask("bad", 10), batcher.ask("other", 10)
    gate.open.set()
    assert good.result(10) == "answer to good" and other.result(10) == "answer to other"
    with pytest.raises(ValueError, match="bad"):
        bad.result(10)
    batcher.close()


def test_who_waits_at_the_end_is_answered_and_nobody_after():
    gate = Gate()
    batcher = Batcher(gate, together=2, waiting=10)
    held(gate, batcher)
    replies = [batcher.ask(number, 10) for number in range(5)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    time.sleep(0.05)
    with pytest.raises(ClosedError):
        batcher.ask("too late", 10)
    gate.open.set()
    closing.join(10)
    assert [reply.result(0) for reply in replies] == [f"answer to {number}" for number in range(5)]


def test_something_is_done_between_two_batches_and_a_failure_of_it_stops_nothing():
    gate = Gate()
    batcher, done = Batcher(gate, together=2, waiting=10), []
    held(gate, batcher)
    batcher.between(lambda: 1 / 0)
    batcher.between(lambda: done.append(list(gate.batches)))
    reply = batcher.ask("after", 10)
    gate.open.set()
    assert reply.result(10) == "answer to after" and done == [[["first"]]]
    batcher.close()


def test_who_gave_up_is_left_out():
    gate = Gate()
    batcher = Batcher(gate, together=4, waiting=10)
    held(gate, batcher)
    gone, there = batcher.ask("gone", 10), batcher.ask("there", 10)
    assert gone.cancel()
    gate.open.set()
    assert there.result(10) == "answer to there"
    batcher.close()
    assert gate.batches == [["first"], ["there"]]
