"""LoRA through peft: small matrices learn beside frozen layers, and are merged into them when a stage ends."""

from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

ALPHA = 2  # times the rank: the update's scale


@contextmanager
def adapted(model: Any, rank: int):
    """Train low-rank adapters in the decoder's linear layers instead of the layers; full parameters for rank 0.

    Itemic rows and norms go on learning as they are. The model is changed in place and is plain again afterwards, so
    that the next stage, decoding and export need know nothing of adapters.
    """
    if not rank:
        yield
        return
    from peft import LoraConfig, get_peft_model

    prefix = next(name for name, module in model.named_modules() if module is model.get_decoder())
    linear = [f"{prefix}.{name}" for name, part in model.get_decoder().named_modules() if isinstance(part, nn.Linear)]
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    matrices = {f"{name}.weight" for name in linear} | {f"{name}.bias" for name in linear}
    with torch.random.fork_rng():
        torch.manual_seed(torch.initial_seed())  # of the run alone, whatever was drawn since, in how many processes
        wrapped: Any = get_peft_model(model, LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules=linear))
    for name, value in model.named_parameters():  # peft froze them with everything else
        if name in learning - matrices:
            value.requires_grad_(True)
    yield
    wrapped.merge_and_unload()
    for name, value in model.named_parameters():
        value.requires_grad_(name in learning)
