"""Validation during a stage: at planned steps and where it stops early, keeping the weights that scored best.

What is scored is the stage's matter. The scores so far lie in ``validation.json``, so that an
interrupted stage goes on comparing with what it had.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

from recbole_think.artifacts import read_json, save_tensors, write_json
from recbole_think.processes import gathered
from recbole_think.stages.sharding import Learner
from recbole_think.stages.stage import BEST, Context, trainable

log = logging.getLogger(__name__)


class BestWeights(TrainerCallback):
    """Validates at planned steps, and keeps the weights that scored best."""

    def __init__(
        self, context: Context, validate: Callable[[], float], validations: int, folder: Path, steps: int,
        at_start: bool = False, learner: Learner | None = None,
    ):  # fmt: skip
        self.context, self.validate, self.folder = context, validate, folder
        self.stage = folder.relative_to(context.folder).parts[0]
        self.when = {round(steps * (i + 1) / validations) for i in range(validations)}
        self.at_start = at_start  # the weights training begins with are among those to choose from
        self.learner = learner or Learner(context.model)  # what learns in the place of the context's model
        self.path = folder / "validation.json"

    @property
    def scores(self) -> dict[str, float]:
        """Validation score by step, so far."""
        return read_json(self.path) if self.path.is_file() else {}

    @property
    def score(self) -> float:
        """Best validation score so far."""
        return max(self.scores.values(), default=float("-inf"))

    def on_train_begin(self, args, state, control, **kwargs):
        """Say what is held here, and validate what training begins with, if asked for and it begins at all."""
        if self.learner.apart:
            here, whole = self.learner.held()
            log.info("stage %s: %.3f of %.3f MB of weights lie in this process", self.stage, here / 1e6, whole / 1e6)
        if self.at_start and state.global_step == 0:
            self._compare(state)

    def on_step_end(self, args, state, control, **kwargs):
        """Validate, and keep the weights if they are the best."""
        if state.global_step in self.when:
            self._compare(state)

    def on_train_end(self, args, state, control, **kwargs):
        """Validate what training was stopped with early, so that it is among the weights to choose from."""
        if str(state.global_step) not in self.scores:
            self._compare(state)

    def _compare(self, state) -> None:
        model = self.context.model
        model.eval()
        try:
            with self.learner.at_hand():
                found = gathered(self.validate())[0]  # the first process's word, lest a last digit parts them
        except FloatingPointError as why:
            raise FloatingPointError(
                f"stage {self.stage}, step {state.global_step}: {why}; the last good checkpoint is kept; lower the "
                f"learning rates of block {self.stage} and run again"
            ) from why
        model.train()
        self.context.scalar(f"{self.stage}/valid", found, state.global_step)
        log.info("stage %s, step %d of %d: validation %.4f", self.stage, state.global_step, state.max_steps, found)
        earlier = {step: score for step, score in self.scores.items() if int(step) < state.global_step}
        if not earlier or found > max(earlier.values()):
            save_tensors(self.folder / BEST, trainable(model))
        write_json(self.path, {**earlier, str(state.global_step): found})

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Pass the loss on to TensorBoard."""
        if logs and "loss" in logs:
            self.context.scalar(f"{self.stage}/loss", logs["loss"], state.global_step)

    def curve(self, history: list[dict]) -> list[dict[str, float]]:
        """Loss and validation by step, for the report."""
        rows = [{"step": row["step"], "loss": row["loss"]} for row in history if "loss" in row]
        return [*rows, *({"step": int(step), "valid": score} for step, score in self.scores.items())]
