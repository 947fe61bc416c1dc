"""Requests that wait at the same moment are answered together: one reading, one beam search.

Nobody waits for others to come: a batch is whoever is there when the one before is done. The queue is bounded, and who
finds it full is told at once.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

log = logging.getLogger(__name__)
Asked = TypeVar("Asked")
Given = TypeVar("Given")


class FullError(Exception):
    """As many are waiting as may."""


class ClosedError(Exception):
    """Nothing is answered any more."""


@dataclass
class Waiting(Generic[Asked, Given]):
    """One who waits."""

    question: Asked
    reply: "Future[Given]"
    until: float  # of the monotonic clock; who would be answered later has gone


class Batcher(Generic[Asked, Given]):
    """Answers in batches, in a thread of its own."""

    def __init__(
        self, work: Callable[[list[Asked]], Sequence[Given]], together: int, waiting: int,
        seen: Callable[[int, float], object] = lambda size, seconds: None,
    ):  # fmt: skip
        """Begin to answer.

        Args:
            work: answers a batch, in order; called by one thread alone.
            together: most of a batch.
            waiting: most that wait.
            seen: told size and seconds of every batch.
        """
        self._work, self._together, self._most, self._seen = work, together, waiting, seen
        self._queue: deque[Waiting[Asked, Given]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._between: deque[Callable[[], object]] = deque()
        self._thread = threading.Thread(target=self._run, name="answering", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many are waiting."""
        return len(self._queue)

    def ask(self, question: Asked, timeout_s: float) -> "Future[Given]":
        """Ask; the future fails with TimeoutError where it is not come to in time.

        Raises:
            FullError: as many are waiting as may.
            ClosedError: nothing is answered any more.
        """
        reply: Future[Given] = Future()
        with self._changed:
            if self._closing:
                raise ClosedError
            if len(self._queue) >= self._most:
                raise FullError
            self._queue.append(Waiting(question, reply, time.monotonic() + timeout_s))
            self._changed.notify()
        return reply

    def between(self, act: Callable[[], object]) -> None:
        """Let the thread do something between two batches."""
        with self._changed:
            self._between.append(act)
            self._changed.notify()

    def close(self) -> None:
        """Answer who is waiting, and nobody else; returns when that is done."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._between or self._closing)
                acts = [self._between.popleft() for _ in range(len(self._between))]
                batch = [self._queue.popleft() for _ in range(min(self._together, len(self._queue)))]
            for act in acts:
                self._act(act)
            self._answer(batch)
            if self._closing and not self._queue:
                return

    def _act(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception:
            log.exception("what was to be done between two batches failed")

    def _answer(self, batch: Sequence[Waiting[Asked, Given]]) -> None:
        now = time.monotonic()
        for one in batch:
            if one.until < now and one.reply.set_running_or_notify_cancel():
                one.reply.set_exception(TimeoutError())
        batch = [one for one in batch if one.until >= now and one.reply.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            replies = self._work([one.question for one in batch])
        except Exception as why:
            self._failed(batch, why)
            return
        self._seen(len(batch), time.monotonic() - now)
        for one, reply in zip(batch, replies, strict=True):
            one.reply.set_result(reply)

    def _failed(self, batch: Sequence[Waiting[Asked, Given]], why: Exception) -> None:
        """Answer one by one, so that one bad question fails alone."""
        if len(batch) == 1:
            log.error("a request failed", exc_info=why)
            batch[0].reply.set_exception(why)
            return
        for one in batch:
            try:
                one.reply.set_result(self._work([one.question])[0])
            except Exception as its_own:
                log.error("a request failed", exc_info=its_own)
                one.reply.set_exception(its_own)
