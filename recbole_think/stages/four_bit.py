"""Layers in four bits beside adapters that learn (QLoRA, Dettmers et al. 2023), through bitsandbytes.

Only a copy that learns is rounded. Adapters are merged into the whole weights it was made from, and validation reads
those too, so the weights a stage keeps are the ones it was judged by; what rounding costs is what adapters learn beside
layers that are a little off.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from recbole_think.errors import InputError

QUANTISATION = "nf4"  # steps that suit normally distributed weights


def require_four_bit(block: str, lora_rank: int, sharding: str) -> None:
    """Check that a stage can learn beside layers in four bits.

    Raises:
        InputError: without adapters, in shards, or without bitsandbytes.
    """
    if not lora_rank:
        raise InputError(f"{block}.four_bit: what is rounded cannot learn; set {block}.lora_rank, such as 16")
    if sharding != "none":
        raise InputError(f"{block}.four_bit: layers in four bits are not cut into shards; set sharding=none")
    if find_spec("bitsandbytes") is None:
        raise InputError(f'{block}.four_bit needs bitsandbytes: pip install "recbole-think[four_bit]"')


def round_layers(model: Any, dtype: torch.dtype) -> None:
    """Round the linear layers that adapters of peft stand beside, in place.

    Args:
        model: with adapters.
        dtype: products are taken in.
    """
    from peft.tuners.lora import Linear

    for part in model.get_decoder().modules():
        if isinstance(part, Linear):
            part.base_layer = _rounded(part.base_layer, dtype)


def _rounded(layer: Any, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    weight, device = layer.weight.detach(), layer.weight.device
    rounded = Linear4bit(
        layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=dtype,
        quant_type=QUANTISATION, device="meta",
    )  # fmt: skip
    rounded.weight = Params4bit(weight.cpu(), requires_grad=False, quant_type=QUANTISATION)
    rounded.bias = layer.bias
    return rounded.to(device)  # where it is rounded
