"""A progress bar with the time left and the loss, on the error stream; transformers' own writes to standard output."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.utils import logging as theirs


class Bar(TrainerCallback):
    """One bar per stage, going on where an interrupted run stopped."""

    def __init__(self, stage: str):
        self.stage = stage
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar at the step the run goes on from."""
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.stage, unit="step", leave=True)

    def on_step_end(self, args, state, control, **kwargs):
        """Advance."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the latest loss."""
        shown = {name: f"{float(logs[name]):.3f}" for name in ("reward", "kl", "loss") if name in (logs or {})}
        if self.bar is not None and shown:
            self.bar.set_postfix(shown, refresh=False)

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block transformers draws no bars of its own, and nobody is told that TRL's rollouts are new."""
    verbosity = theirs.get_verbosity()
    theirs.disable_progress_bar()
    theirs.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            yield
    finally:
        theirs.set_verbosity(verbosity)
        theirs.enable_progress_bar()


def use_bar(trainer: Trainer, stage: str, shown: bool) -> None:
    """Replace transformers' progress callbacks, which print to standard output, by ours, or by nothing."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if shown:
        trainer.add_callback(Bar(stage))
