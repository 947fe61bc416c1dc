"""What a trainer trains: the model of the run, or a copy of it, cut into shards or rounded to four bits.

Cut into shards, the copy's parameters, gradients and optimizer state lie spread over all processes (FSDP2 of torch,
ZeRO-3 of DeepSpeed; ZeRO-2 leaves parameters whole). The model of the run stays whole beside it, without gradients or
optimizer state, and is given the copy's weights whenever it is validated or kept: a search over a trie asks a model in
every process another number of times, which shards, that answer together or not at all, cannot follow.
What that costs a device is in docs/backbones.md.
"""

import copy
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from recbole_think import processes
from recbole_think.errors import InputError
from recbole_think.options import near_hint
from recbole_think.stages.cutting import bytes_here, cut_like, made_whole
from recbole_think.stages.four_bit import round_layers
from recbole_think.stages.stage import trainable

SHARDINGS = ("none", "fsdp2", "zero2", "zero3")
LAUNCHED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")  # what accelerate's launcher says of its own sharding


def require_sharding(sharding: str, launched: dict[str, str]) -> None:
    """Check the key ``sharding``, and that the launcher does not ask for another one.

    Args:
        sharding: its value.
        launched: the environment.

    Raises:
        InputError: an unknown value, DeepSpeed missing, or a launcher that shards by itself.
    """
    if sharding not in SHARDINGS:
        raise InputError(f"sharding={sharding!r}{near_hint(sharding, SHARDINGS)}: take one of {', '.join(SHARDINGS)}")
    if sharding.startswith("zero") and find_spec("deepspeed") is None:
        raise InputError(f'sharding={sharding} needs DeepSpeed: pip install "recbole-think[deepspeed]", or take fsdp2')
    for name in LAUNCHED:
        if launched.get(name, "false").lower() == "true":
            raise InputError(
                f"the launcher shards by itself ({name}=true), which validation during a stage cannot follow: launch "
                f"plain processes (torchrun, or accelerate launch without FSDP and DeepSpeed) and set --sharding="
                f"{'fsdp2' if 'FSDP' in name else 'zero2'}"
            )


class Learner:
    """What learns in the place of a run's model; neither sharded nor rounded, that model itself.

    A model of its own is made in main memory, where the whole one waits until ``with`` ends, but while it is
    ``at_hand``.
    """

    def __init__(self, whole: Any, sharding: str = "none", rounded: torch.dtype | None = None):
        """Take the model as it is now, adapters and dropout included.

        Args:
            whole: the model of the run; its parameters stay as they are until ``gather``.
            sharding: one of ``SHARDINGS``.
            rounded: layers beside adapters are in four bits, products in this; None = they are not.
        """
        self.whole, self.model = whole, whole
        self.device = next(whole.parameters()).device
        self.sharding = sharding if processes.count() > 1 else "none"
        self.linear = functional.linear
        gc.collect()  # a trainer of before may hold its optimizer's memory in a cycle
        if self.sharding == "none" and rounded is None:
            return
        self.model = copy.deepcopy(whole.to("cpu"))
        if rounded is not None:
            round_layers(self.model, rounded)

    @property
    def apart(self) -> bool:
        """Whether it is a model of its own."""
        return self.model is not self.whole

    @property
    def owns_placement(self) -> bool:
        """Whether it averages gradients itself, so that nobody else must wrap it."""
        return self.sharding == "fsdp2"

    def __enter__(self) -> "Learner":
        return self

    def __exit__(self, *_: object) -> None:
        if self.apart:
            self.whole.to(self.device)
        if self.sharding.startswith("zero"):
            self._undo()

    def _undo(self) -> None:
        """Put back what DeepSpeed, and accelerate and transformers for it, change for whatever comes next."""
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
        for name in LAUNCHED:
            os.environ.pop(name, None)
        functional.linear = self.linear
        for value in self.model.parameters():  # its hooks keep the model alive
            value.grad, value.data = None, value.new_empty(0)
            if hasattr(value, "ds_tensor"):
                value.ds_tensor = None

    @contextmanager
    def at_hand(self) -> Iterator[Any]:
        """The whole model with the weights learnt so far, where it can be asked; all processes have to."""
        self.gather()
        if self.apart:
            self.whole.to(self.device)
        yield self.whole
        if self.apart:
            self.whole.to("cpu")

    def cut(self, root: nn.Module) -> nn.Module:
        """Cut into shards what torch shards; DeepSpeed cuts when its engine is made.

        Args:
            root: what holds all that learns, through whose forward alone it is asked.
        """
        if self.owns_placement:
            from torch.distributed import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (processes.count(),))
            for layer in self.model.get_decoder().layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(root, mesh=mesh)
        if self.sharding == "zero3":
            from deepspeed import zero as partitioned

            for value in self.rows():
                partitioned.register_external_parameter(root, value)
        return root

    def rows(self) -> list[nn.Parameter]:
        """Rows of words and codes, in and out, as they are now: every step has to use them all.

        Shards are fetched and gradients summed as they are used, and all processes wait for all to use the same; of
        these one may need none, for want of a plain token in its share of a batch. Alone too, so that an optimizer
        does the same whatever the number of processes.
        """
        parts = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        return list(dict.fromkeys(value for part in parts for value in part.parameters()))

    def arguments(self) -> dict[str, Any]:
        """What transformers' ``TrainingArguments`` are to say of it."""
        return {"deepspeed": zero(int(self.sharding[-1]))} if self.sharding.startswith("zero") else {}

    def gather(self) -> None:
        """Give the whole model the weights learnt so far; all processes have to."""
        if not self.apart:
            return
        own = dict(self.whole.named_parameters())
        with torch.no_grad():
            for name, value in trainable(self.model).items():
                own[name].copy_(made_whole(value))

    def spread(self) -> None:
        """Take the weights of the whole model, but where DeepSpeed keeps its own."""
        if not self.apart or self.sharding.startswith("zero"):
            return
        own = dict(self.whole.named_parameters())
        with torch.no_grad():
            for name, value in trainable(self.model).items():
                value.copy_(cut_like(value, own[name].detach()))

    def held(self) -> tuple[int, int]:
        """Bytes of its parameters that lie in this process, and bytes of the whole model's."""
        return bytes_here(self.model), bytes_here(self.whole)


def zero(stage: int) -> dict[str, Any]:
    """DeepSpeed's settings; products are taken in bfloat16 by autocast, weights and sums stay float32."""
    return {
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }
