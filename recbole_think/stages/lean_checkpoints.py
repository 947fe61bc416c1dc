"""Checkpoints of what learns alone, for transformers' trainers: whole or not there, in shards or not.

Weights are written in the words of the run's own model. So is the optimizer's state, out of torch's shards, which makes
a checkpoint readable in any number of processes; DeepSpeed writes its own.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from recbole_think.artifacts import load_tensors, save_tensors
from recbole_think.errors import InputError
from recbole_think.stages.checkpoints import last_checkpoint, whole_checkpoint
from recbole_think.stages.cutting import keep_whole, note_shards, require_same_shards
from recbole_think.stages.sharding import Learner
from recbole_think.stages.stage import load_weights, trainable


def resumable(folder: Path, learner: Learner) -> str | None:
    """The checkpoint a stage goes on from, or None.

    Raises:
        InputError: it was made by a job whose shards this one cannot read.
    """
    found = last_checkpoint(folder)
    if found is not None:
        require_same_shards(Path(found), learner.sharding)
    return found


class LeanCheckpoints(Trainer):
    """Transformers' Trainer with checkpoints of what learns alone, whole or not there."""

    model: Any  # transformers allows None, we never do
    optimizer: Any
    lr_scheduler: Any
    learner: Learner

    def __init__(self, *args, learner: Learner, **kwargs):
        super().__init__(*args, **kwargs)
        self.learner = learner
        if learner.owns_placement:  # transformers' word for a model that nobody is to wrap
            if not hasattr(self, "is_distributed_loading_by_transformers"):
                raise InputError("sharding=fsdp2 needs a newer transformers: pip install -U transformers")
            self.is_distributed_loading_by_transformers = True

    def create_optimizer(self, model=None):
        """Make the optimizer, whose state is kept whole."""
        super().create_optimizer()
        if self.learner.owns_placement:
            keep_whole(self.optimizer)
        return self.optimizer

    def learn(self, folder: Path) -> None:
        """Train, from the last checkpoint in a stage's folder on, and give back what a device holds for it.

        Raises:
            InputError: a job made the checkpoint whose shards this one cannot read.
        """
        try:
            self.train(resume_from_checkpoint=resumable(folder, self.learner))
        finally:
            self.accelerator.free_memory()  # ends DeepSpeed's engine

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        """Write what learns, in the words of our own model."""
        self.learner.gather()
        folder = Path(str(output_dir or self.args.output_dir))
        save_tensors(folder / "weights.safetensors", trainable(self.learner.whole))
        note_shards(folder, self.learner.sharding)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        tensors = load_tensors(Path(str(resume_from_checkpoint)) / "weights.safetensors")
        load_weights(self.learner.whole, tensors)
        self.learner.spread()

    def _save_checkpoint(self, model, trial):
        with whole_checkpoint(Path(str(self.args.output_dir)), self.state.global_step):
            super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.learner.owns_placement and not self.args.should_save:
            self.optimizer.state_dict()  # gives its shards to the process that writes
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is None or not self.learner.owns_placement:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        for part, name in ((self.optimizer, OPTIMIZER_NAME), (self.lr_scheduler, SCHEDULER_NAME)):
            # from main memory, tensor by tensor: transformers would put all of it on every device first
            part.load_state_dict(torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True, mmap=True))
