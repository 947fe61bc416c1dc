"""Log-probabilities of completions whose prompts are shared: each prompt is read once, however many go on from it.

R completions, P tokens of the longest prompt, C of the longest completion, V tokens of the dialect.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_think.prompts.batching import IGNORED, Row, packed_batch
from recbole_think.prompts.tasks import Example
from recbole_think.stages.attention import folded


def scored(
    model: Any, input_ids: Tensor, attention_mask: Tensor, longest: int, temperature: float, accelerator: Any
) -> tuple[Tensor, Tensor]:
    """Score completions; gradients flow.

    Args:
        model: plain causal LM.
        input_ids: int64 [R, P + C], prompts padded on the left, completions on the right.
        attention_mask: int64 [R, P + C].
        longest: C.
        temperature: logits are divided by it.
        accelerator: whose precision it is computed in.

    Returns:
        Log-probability of every token of the completions, and the entropy of what it was drawn from, [R, C] each; 0
        where nothing is.
    """
    rows, owners = _rows(input_ids.cpu().numpy(), attention_mask.cpu().numpy().astype(bool), longest)
    batch = packed_batch(rows, 0)
    device = input_ids.device
    with accelerator.autocast(), folded(accelerator.unwrap_model(model)):
        logits = model(
            input_ids=batch["input_ids"].to(device),
            attention_mask=batch["attention_mask"].to(device),
            position_ids=batch["position_ids"].to(device),
            use_cache=False,
        ).logits  # [rows, T, V]
    labels = batch["labels"].to(device)
    chosen = labels != IGNORED
    likely = (logits[chosen].float() / temperature).log_softmax(-1)  # [N, V]
    of_tokens = likely.gather(1, labels[chosen].unsqueeze(1)).squeeze(1)
    entropy = -(likely.exp() * likely).sum(-1)
    places = torch.from_numpy(np.concatenate(owners)).to(device)  # where each of N belongs in [R, C]
    empty = of_tokens.new_zeros(len(input_ids) * longest)
    shape = len(input_ids), longest
    return empty.scatter(0, places, of_tokens).view(shape), empty.scatter(0, places, entropy.detach()).view(shape)


def _rows(ids: np.ndarray, seen: np.ndarray, longest: int) -> tuple[list[Row], list[np.ndarray]]:
    """One row per prompt, and of each row's labels, in order, their places in a flat table of R x C."""
    begin = ids.shape[1] - longest
    groups: dict[bytes, list[int]] = {}
    for row in range(len(ids)):
        groups.setdefault(ids[row, :begin][seen[row, :begin]].tobytes(), []).append(row)
    rows, owners = [], []
    for members in groups.values():
        prompt = ids[members[0], :begin][seen[members[0], :begin]]
        examples = []
        for row in members:
            completion = ids[row, begin:][seen[row, begin:]]
            told = np.concatenate([prompt, completion])
            examples.append(Example(told, np.arange(len(told)) >= len(prompt), plain=True))
            owners.append(row * longest + np.arange(len(completion)))
        rows.append(Row(examples, len(prompt) - 1))  # the last token of a prompt predicts, once for each completion
    return rows, owners
