"""What a supervised stage costs a token: it is trained for a moment, and nothing is kept."""

import time
from dataclasses import replace

from transformers import TrainerCallback

from recbole_think.stages.attention import folded
from recbole_think.stages.batches import BatchPlan
from recbole_think.stages.compiling import compiled
from recbole_think.stages.options import TrainingOptions
from recbole_think.stages.progress import use_bar
from recbole_think.stages.sharding import Learner
from recbole_think.stages.stage import Context
from recbole_think.stages.training import planned_trainer, recomputed


def probe(name: str, context: Context, options: TrainingOptions, plan: BatchPlan, seconds: float) -> float:
    """Train for about ``seconds`` and return seconds per token; nothing is kept.

    Args:
        name: of the stage.
        context: what every stage is given; its folder is written to.
        options: of the stage.
        plan: every step's batch.
        seconds: when to stop; at least two steps are made, of which the first, which sets up, does not count.
    """
    watch = StopWatch(seconds)
    options, learner = replace(options, checkpoints=0), Learner(context.model)
    trainer = planned_trainer(context.folder / name, context, options, plan, learner, watch)
    use_bar(trainer, name, shown=False)
    # a moment is too short for ``auto``
    with (
        recomputed(context.model, options.gradient_checkpointing),
        folded(context.model),
        compiled(context.model, options.compile == "always"),
    ):
        trainer.train()
    done = len(watch.ends)
    spent = watch.ends[-1] - (watch.ends[0] if done > 1 else watch.begin)
    read = plan.batches[1:done] if done > 1 else plan.batches[:1]
    return spent / sum(row.tokens for batch in read for row in batch)


class StopWatch(TrainerCallback):
    """Notes when each step ends, and stops the training after a while."""

    def __init__(self, seconds: float):
        self.seconds, self.begin, self.ends = seconds, time.perf_counter(), list[float]()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop when the time is over."""
        self.ends.append(time.perf_counter())
        if len(self.ends) > 1 and self.ends[-1] - self.begin > self.seconds:
            control.should_training_stop = True
