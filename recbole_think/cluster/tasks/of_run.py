"""What tasks over a finished run share: the run, how lists are made, and whose turn it is in which shard."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_think.decoding.engine import OURS, EngineOptions
from recbole_think.decoding.in_process import HOW, installed
from recbole_think.errors import InputError
from recbole_think.loading import load
from recbole_think.memory import keep_memory
from recbole_think.options import check, read_options
from recbole_think.resume import weights_digest
from recbole_think.scoring import is_generative
from recbole_think.shards import SHARD_USERS


@dataclass(frozen=True)
class RunOptions:
    """Options of a task over a run."""

    run_folder: str = ""
    split: str = "test"
    mask_history: str = ""  # true, false; "" = as the run was evaluated
    shard_users: int = SHARD_USERS  # at least so many users make a shard
    threads: int = 1  # of each worker; another number adds in another order
    decode: dict = field(default_factory=dict)  # laid over the run's own block

    def __post_init__(self):
        check(bool(self.run_folder), "--run_folder=<folder of a finished run> is missing")
        check(self.mask_history in ("", "true", "false"), f"--mask_history: true or false, got {self.mask_history!r}")
        for name in ("shard_users", "threads"):
            check(getattr(self, name) >= 1, f"--{name} must be at least 1, got {getattr(self, name)}")


class OfRun:
    """A finished run, ready to be asked."""

    def __init__(self, options: RunOptions, splits: tuple[str, ...]):
        check(options.split in splits, f"--split must be one of {', '.join(splits)}, got {options.split!r}")
        keep_memory()
        torch.set_num_threads(options.threads)
        self.options, self.run = options, load(options.run_folder)
        self.model: Any = self.run.model
        if not is_generative(self.model):
            name = type(self.model).__name__
            raise InputError(f"{options.run_folder} is a run of {name}, which scores items and makes no lists")
        self._lay_over(options.decode)
        masked = {"": bool(self.run.config["mask_history"]), "true": True, "false": False}
        self.masked = masked[options.mask_history]

    def _lay_over(self, decode: Mapping[str, Any]) -> None:
        """Change how lists are made."""
        if not decode:
            return
        blocks = getattr(self.model, "options", {})
        if "decode" not in blocks:
            raise InputError(f"--decode.{next(iter(decode))}: {type(self.model).__name__} has no such option")
        before = blocks["decode"]
        blocks["decode"] = read_options(type(before), {**asdict(before), **decode}, "decode")

    @property
    def names(self) -> np.ndarray:
        """Raw id of every user, by RecBole's."""
        return self.run.dataset.field2id_token[self.run.dataset.uid_field]

    def made_from(self) -> dict[str, Any]:
        """What lists depend on."""
        return {
            "weights": weights_digest(self.model),
            "data_fingerprint": self.run.metrics["data_fingerprint"],
            "configuration": self.run.metrics["command"],
            "decode": asdict(self.model.decode),
            "precision": str(self.model.dtype()) if hasattr(self.model, "dtype") else "torch.float32",
            "masked": self.masked,
            **self._release(),
        }

    def _release(self) -> dict[str, str]:
        """Of an engine in the worker's own process; that of a server is the server's business."""
        if self.model.engine_name != "vllm":
            return {}
        return {"vllm": " ".join(installed("decode.engine=vllm", HOW))}

    def use(self, engine: Mapping[str, Any]) -> None:
        """Load or connect to the engine of the job (``decode.engine``) where it is for this machine.

        Raises:
            InputError: as ``engines.open_engine``: a machine without it takes no shard.
        """
        name = self.model.engine_name
        if name == OURS:
            check(not engine, "--engine: this job is computed by its workers; plan it with --decode.engine")
            return
        blocks = self.model.options
        blocks["engine"] = read_options(EngineOptions, {**asdict(blocks["engine"]), **engine}, "engine")
        self.model.open_engine(name)

    def prepare(self, folder: Path) -> None:
        """Nothing is needed besides the run."""
