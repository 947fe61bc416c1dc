"""The fit of a RecBole model that was cut off goes on from its last validation, to the very weights it would have had.

RecBole's own ``resume_checkpoint`` restores neither random numbers nor the best weights, and torch >= 2.6 refuses its
files. Here all that the rest of a fit depends on is one file, written whole after every validation: weights, optimiser,
random numbers, the loader's shuffling, the best weights so far. It holds tensors and plain values alone: reading it
runs no code.
"""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.trainer import Trainer

from recbole_think.artifacts import require_same, write_whole
from recbole_think.errors import InputError

NAME = "going-on.pt"


def can_go_on(trainer: Any) -> bool:
    """Whether a trainer's fit is RecBole's plain loop and its model nothing but weights.

    Others (pretraining in two phases, state kept beside the weights) begin anew.
    """
    plain = isinstance(trainer, Trainer) and type(trainer).fit is Trainer.fit
    return plain and not trainer.model.other_parameter()


@dataclass
class FitState:
    """Keeps and restores one fit."""

    trainer: Any
    loader: Any  # of training data
    made_from: Mapping[str, str]
    before: float = 0.0  # seconds it took until it was cut off
    begin: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds it has taken so far, those before it was cut off too, as far as they led to a validation."""
        return self.before + time.perf_counter() - self.begin

    @property
    def path(self) -> Path:
        """The one file."""
        return Path(self.trainer.checkpoint_dir) / NAME

    def keep(self, epoch: int, score: float) -> None:
        """Write everything down; called by RecBole after a validation."""
        trainer = self.trainer
        if trainer.cur_step == 0:  # it was the best so far
            self._best = _weights(trainer.model)
        state = {
            "made_from": dict(self.made_from),
            "epoch": epoch,
            "seconds": self.seconds,
            "cur_step": trainer.cur_step,
            "best_valid_score": float(trainer.best_valid_score),
            "best_valid_result": {name: float(value) for name, value in trainer.best_valid_result.items()},
            "train_loss": {number: float(loss) for number, loss in trainer.train_loss_dict.items()},
            "weights": _weights(trainer.model),
            "best": self._best,
            "optimizer": trainer.optimizer.state_dict(),
            "random": _random(),
            "shuffling": self.loader.generator.get_state(),
        }
        write_whole(self.path, lambda draft: torch.save(state, draft))

    def restore(self) -> bool:
        """Go back to where the last validation was; return whether training goes on from there.

        Raises:
            InputError: the file is damaged or of another fit.
        """
        try:
            state = torch.load(self.path, "cpu", weights_only=True)  # each part goes where its owner is
        except Exception as why:  # whatever a damaged file makes of unpickling
            raise InputError(f"{self.path} is damaged ({why}); delete it and run again") from why
        require_same(state["made_from"], self.made_from, self.path)
        trainer, self._best = self.trainer, state["best"]
        self.before = state.get("seconds", 0.0)  # not in files of before this was kept
        trainer.model.load_state_dict(state["best"])
        trainer._save_checkpoint(state["epoch"], verbose=False)  # RecBole's own file of the best, whole again
        trainer.model.load_state_dict(state["weights"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.start_epoch, trainer.cur_step = state["epoch"] + 1, state["cur_step"]
        trainer.best_valid_score, trainer.best_valid_result = state["best_valid_score"], state["best_valid_result"]
        trainer.train_loss_dict = state["train_loss"]
        _set_random(state["random"])
        self.loader.generator.set_state(state["shuffling"])
        return trainer.start_epoch < trainer.epochs and trainer.cur_step <= trainer.stopping_step


def _weights(model: Any) -> dict[str, Any]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _random() -> dict[str, Any]:
    kind, words, place, has_gauss, gauss = np.random.get_state()
    numpy = [str(kind), torch.from_numpy(np.asarray(words).astype(np.int64)), int(place), int(has_gauss), float(gauss)]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": numpy, "python": list(random.getstate()[1])}


def _set_random(state: dict[str, Any]) -> None:
    kind, words, *others = state["numpy"]
    np.random.set_state((kind, words.numpy().astype(np.uint32), *others))
    random.setstate((3, tuple(state["python"]), None))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
