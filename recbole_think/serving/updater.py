"""Teaching the direct model what happened since: a few steps, a judgement, and a switch at once.

Events of some users are never taught: the new weights answer only if they name those better than the old ones, and old
events no worse than is tolerated.
"""

import fcntl
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_think.errors import InputError
from recbole_think.serving.lesson import Fresh, Lesson, Questions, fresh_of, guard, is_canary, questions_of
from recbole_think.serving.live import Live
from recbole_think.serving.run import ServedRun
from recbole_think.serving.store import Store
from recbole_think.stages.options import WeightOptions
from recbole_think.stages.stage import Context, load_weights, trainable
from recbole_think.stages.training import layers_learning, train

ATTEMPT = "attempt"  # what is being trained; of no use after a kill


@dataclass(frozen=True)
class UpdateOptions(WeightOptions):
    """How the direct model is taught between two runs."""

    block: ClassVar[str] = "update"

    learning_rate: float = 1e-4
    row_learning_rate: float = 3e-4
    weight_decay: float = 0.0
    dropout: float = 0.1
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    validations: int = 1
    checkpoints: int = 0
    compile: str = "never"
    epochs: int = 2  # times the fresh events are read
    most: int = 20_000  # events of one update
    replay: float = 1.0  # windows of old histories for every user with fresh events
    canary: float = 0.1  # share of users whose events are asked for instead of taught
    least: int = 20  # canary events below which nothing is judged, and so nothing changed
    guard_users: int = 300  # whose last old event is asked for
    tolerance: float = 0.02  # nats by which old events may become less likely
    kept: int = 5  # versions

    def __post_init__(self):
        super().__post_init__()
        for name in ("epochs", "most", "least", "guard_users", "kept"):
            self._check(getattr(self, name) >= 1, name, "must be at least 1")
        for name in ("replay", "tolerance"):
            self._check(getattr(self, name) >= 0, name, "must not be negative")
        self._check(0 < self.canary < 1, "canary", "must be a share between 0 and 1")


class Updater:
    """Teaches the direct model of one run."""

    def __init__(self, served: ServedRun, store: Store, live: Live, options: UpdateOptions, show_progress: bool = True):
        """Take a run with a direct model.

        Args:
            served: the run; its model takes on the weights of the version that answers.
            store: where events are.
            live: versions.
            options: how to teach.
            show_progress: draw a bar with the time left.
        """
        self.served, self.store, self.live, self.options = served, store, live, options
        self.show_progress = show_progress
        self.ranker, self._own = served.model.ranker, _tensors(served)

    def update(self) -> dict[str, Any]:
        """One update; what it looked at is not looked at again, unless it was too little to judge by.

        Returns:
            ``version`` that was made (None = none), ``accepted``, ``events`` that were looked at, and which version
            ``answers`` now; ``nats_gained`` by those that judge, or ``why`` nothing was done.
        """
        options, before, after = self.options, self.live.current(), self.live.until()
        events = self.store.since(after, options.most)
        until = events[-1].number if events else after
        told: dict[str, Any] = {"version": None, "accepted": False, "events": len(events), "answers": before}
        people = fresh_of(self.served, self.store.events(sorted({event.user for event in events})), after, until)
        canary = questions_of((one for one in people if is_canary(one.user, options.canary)), options.most)
        taught = [one for one in people if not is_canary(one.user, options.canary)]
        if not taught or len(canary.targets) < options.least:
            if len(events) == options.most:  # more would not help: they come after these
                self.live.take_up(until)
                return {**told, "why": f"{len(canary.targets)} canary events among {len(events)}: left out"}
            return {**told, "why": f"{len(canary.targets)} canary events, {options.least} are needed: all wait"}
        try:
            gained = self._taught(taught, canary, before)
        except FloatingPointError as why:
            self._begin_with(before)
            self.live.take_up(until)
            return {**told, "why": f"{why}: left out"}
        accepted = gained["canary"] > 0 and gained["guard"] >= -options.tolerance
        facts = {
            "parent": before, "events": [after + 1, until], "accepted": accepted, "at": time.time(),
            "nats_gained": gained, "canary_events": len(canary.targets), "taught_users": len(taught),
        }  # fmt: skip
        number = self.live.add(trainable(self.ranker.language_model), facts)
        self.live.take_up(until)
        if accepted:
            self.live.switch(number)
        self.live.drop_old(options.kept)
        answers = number if accepted else before
        return {**told, "version": number, "accepted": accepted, "answers": answers, "nats_gained": gained}

    def _taught(self, people: Sequence[Fresh], canary: Questions, version: int) -> dict[str, float]:
        """Teach the weights that answer, and say what canary and guard gained by it, nats an event."""
        self._begin_with(version)
        judges = {
            "canary": canary,
            "guard": guard(self.served.histories, self.options.guard_users, self.served.model.seed),
        }
        was = {name: self._likely(questions) for name, questions in judges.items()}
        self._teach(people, judges["guard"].users, version)
        now = {name: self._likely(questions) for name, questions in judges.items()}
        return {name: round(float((now[name] - was[name]).mean()), 5) for name in judges}

    def _begin_with(self, version: int) -> None:
        load_weights(self.ranker.language_model, self.live.weights(version) if version else self._own)

    def _likely(self, questions: Questions) -> np.ndarray:
        """Log-probability of every item asked for, answered directly."""
        self.ranker.language_model.eval()
        prompts, model = self.ranker.prompts(questions.histories), self.served.model
        return self.ranker.log_probs(prompts, questions.targets, model.options["decode"], model.dtype())

    def _teach(self, people: Sequence[Fresh], without: Collection[int], version: int) -> None:
        """Let the model learn; it ends with what it has learnt."""
        options, served = self.options, self.served
        shutil.rmtree(self.live.folder / ATTEMPT, ignore_errors=True)
        lesson = Lesson(
            people, served.histories, without, self.ranker.max_history, options.replay, options.epochs,
            options.row_tokens, options.tokens_per_batch, served.model.seed + version,
        )  # fmt: skip
        context = Context(
            folder=self.live.folder, model=self.ranker.language_model, vocabulary=self.ranker.vocabulary,
            histories=served.histories, validate=lambda users, think: 0.0, seed=served.model.seed + version, facts={},
            scalar=lambda *_: None, show_progress=self.show_progress,
        )  # fmt: skip
        with layers_learning(self.ranker.language_model, options):
            train(ATTEMPT, context, options, lesson.plan(self.ranker.vocabulary), lambda: 0.0)
        shutil.rmtree(self.live.folder / ATTEMPT)


def _tensors(served: ServedRun) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in served.model.language_model.named_parameters()}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within the block nobody else makes versions there.

    Raises:
        InputError: somebody does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is updating {folder}; wait for it") from None
        yield
