"""A progress bar with the time left and the loss, on the error stream; transformers' own writes to standard output."""

from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback


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
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def use_bar(trainer: Trainer, stage: str, shown: bool) -> None:
    """Replace transformers' progress callbacks, which print to standard output, by ours, or by nothing."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if shown:
        trainer.add_callback(Bar(stage))
