"""Values cut into shards and whole again: parameters, an optimizer's state, and who may read a checkpoint of them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recbole_think import processes
from recbole_think.artifacts import read_json, write_json
from recbole_think.errors import InputError

NOTED = "sharding.json"


def made_whole(value: Any) -> Tensor:
    """A parameter out of its shards; all processes have to ask for it."""
    if hasattr(value, "full_tensor"):
        return value.full_tensor()
    if not hasattr(value, "ds_id"):
        return value
    from deepspeed import zero as partitioned

    with partitioned.GatheredParameters([value]):
        return value.detach().clone()


def bytes_here(model: nn.Module) -> int:
    """Bytes of the parameters, or of what of them lies in this process."""
    here = [value.to_local() if hasattr(value, "to_local") else getattr(value, "ds_tensor", value)
            for value in model.parameters()]  # fmt: skip
    return sum(value.numel() * value.element_size() for value in here)


def keep_whole(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer over shards give and take its state as one process alone would.

    So a checkpoint can be gone on from in any number of processes. All have to ask for the state together.
    """
    optimizer.register_state_dict_post_hook(_whole_state)
    optimizer.register_load_state_dict_pre_hook(_cut_state)


def _whole_state(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    writes = processes.number() == 0

    def kept(value: Any) -> Any:
        found = made_whole(value)
        return found.cpu() if writes else None  # others give their shards away, and keep nothing

    return {
        **state,
        "state": {key: {name: kept(value) for name, value in of.items()} for key, of in state["state"].items()},
    }


def _cut_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {key: {name: cut_like(ordered[key], value) for name, value in of.items()}
           for key, of in state["state"].items()}  # fmt: skip
    return {**state, "state": cut}


def cut_like(parameter: Any, value: Any) -> Any:
    """A value, cut as a parameter of the same shape is."""
    if value.shape != parameter.shape or not hasattr(parameter, "placements"):  # a count of steps; nothing is cut
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def note_shards(checkpoint: Path, sharding: str) -> None:
    """Write beside a checkpoint what reads it again."""
    write_json(checkpoint / NOTED, {"sharding": sharding, "processes": processes.count()})


def require_same_shards(checkpoint: Path, sharding: str) -> None:
    """DeepSpeed's checkpoints are read by as many processes as wrote them, in the same sharding.

    Raises:
        InputError: this job has another number of processes, or another sharding.
    """
    noted = checkpoint / NOTED
    kept: dict[str, Any] = read_json(noted) if noted.is_file() else {"sharding": "none", "processes": 1}
    ours: dict[str, Any] = {"sharding": sharding, "processes": processes.count()}
    if kept != ours and any(job["sharding"].startswith("zero") for job in (kept, ours)):
        was, now = (f"sharding={job['sharding']} in {job['processes']} processes" for job in (kept, ours))
        raise InputError(
            f"{checkpoint} was written with {was}, this job has {now}: go on as it was begun, or begin the stage anew "
            f"by deleting {checkpoint.parent}"
        )
