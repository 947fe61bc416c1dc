"""Log-probabilities of completions whose prompts are shared: each prompt is read once, however many go on from it.

R completions, P tokens of the longest prompt, C of the longest completion, V tokens of the dialect, N tokens of all
completions, d hidden size.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_think.decoding.likelihood import code_logits
from recbole_think.prompts.batching import IGNORED, Row, packed_batch
from recbole_think.prompts.tasks import Example
from recbole_think.stages.attention import folded


def scored(
    model: Any, input_ids: Tensor, attention_mask: Tensor, longest: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Score completions; gradients flow.

    Args:
        model: plain causal LM, out of any wrapper.
        input_ids: int64 [R, P + C], prompts padded on the left, completions on the right.
        attention_mask: int64 [R, P + C].
        longest: C.
        temperature: logits are divided by it.

    Returns:
        Log-probability of every token of the completions, and the entropy of what it was drawn from, [R, C] each; 0
        where nothing is.
    """
    laid = _Laid(input_ids, attention_mask, longest)
    with _quick(model):
        logits = model(**laid.inputs, use_cache=False).logits  # [rows, T, V]
    likely = (logits[laid.chosen].float() / temperature).log_softmax(-1)  # [N, V]
    of_tokens = likely.gather(1, laid.labels.unsqueeze(1)).squeeze(1)
    entropy = -(likely.exp() * likely).sum(-1)
    return laid.spread(of_tokens), laid.spread(entropy.detach())


def scored_codes(
    model: Any, input_ids: Tensor, attention_mask: Tensor, longest: int, code_tokens: Sequence[Tensor], head: Any
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Score completions that are codes alone, each out of the codes of its level; gradients flow.

    Logits of anything else are never made, as in the loss of the supervised stages and in a search by ``level``.

    Args:
        model: plain causal LM, out of any wrapper.
        input_ids: int64 [R, P + C], prompts padded on the left, completions on the right.
        attention_mask: int64 [R, P + C].
        longest: C.
        code_tokens: L int64 tensors, token ids of the codes of each level, rising by one.
        head: of the model, frozen and whole; logits are float32.

    Returns:
        Log-probability of every code of the completions, and the entropy of what it was drawn from, [R, C] each.
    """
    laid = _Laid(input_ids, attention_mask, longest)
    with _quick(model):
        hidden = model.get_decoder()(**laid.inputs, use_cache=False).last_hidden_state[laid.chosen]  # [N, d]
    of_tokens = hidden.new_zeros(len(hidden), dtype=torch.float32)
    entropy = torch.zeros_like(of_tokens)
    for tokens in code_tokens:
        here = ((laid.labels >= tokens[0]) & (laid.labels <= tokens[-1])).nonzero().squeeze(1)
        likely = code_logits(head, hidden[here], tokens).log_softmax(-1)  # [N_level, S]
        right = (laid.labels[here] - tokens[0]).unsqueeze(1)
        of_tokens = of_tokens.index_put((here,), likely.gather(1, right).squeeze(1))
        entropy[here] = -(likely.exp() * likely).sum(-1).detach()
    return laid.spread(of_tokens), laid.spread(entropy)


def scored_words(
    model: Any, input_ids: Tensor, attention_mask: Tensor, longest: int, words: Tensor, temperature: float, head: Any
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Score completions that are words of a thought alone, each out of those words; gradients flow.

    This is the distribution an engine draws from that is told which tokens it may say, and the one its
    log-probabilities are of once logits are masked and divided by the temperature (vLLM's ``processed_logprobs``).

    Args:
        model: plain causal LM, out of any wrapper.
        input_ids: int64 [R, P + C], prompts padded on the left, completions on the right.
        attention_mask: int64 [R, P + C].
        longest: C.
        words: int64 [W], token ids a thought may be made of, rising.
        temperature: logits are divided by it.
        head: of the model, frozen and whole; logits are float32.

    Returns:
        Log-probability of every token of the completions, and the entropy of what it was drawn from, [R, C] each.
    """
    laid = _Laid(input_ids, attention_mask, longest)
    with _quick(model):
        hidden = model.get_decoder()(**laid.inputs, use_cache=False).last_hidden_state[laid.chosen]  # [N, d]
    likely = (code_logits(head, hidden, words) / temperature).log_softmax(-1)  # [N, W]
    right = torch.searchsorted(words.to(likely.device), laid.labels).unsqueeze(1)
    entropy = -(likely.exp() * likely).sum(-1)
    return laid.spread(likely.gather(1, right).squeeze(1)), laid.spread(entropy.detach())


def _quick(model: Any) -> AbstractContextManager:
    """Attention that trains fast; not where layers are read again in the backward pass, when it has been put away."""
    return nullcontext() if model.is_gradient_checkpointing else folded(model)


class _Laid:
    """Completions as rows that hold a prompt once."""

    def __init__(self, input_ids: Tensor, attention_mask: Tensor, longest: int):
        rows, owners = _rows(input_ids.cpu().numpy(), attention_mask.cpu().numpy().astype(bool), longest)
        batch, device = packed_batch(rows, 0), input_ids.device
        self.shape = len(input_ids), longest
        self.inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask", "position_ids")}
        labels = batch["labels"].to(device)
        self.chosen = labels != IGNORED  # bool [rows, T], what predicts something
        self.labels = labels[self.chosen]  # int64 [N]
        self.places = torch.from_numpy(np.concatenate(owners)).to(device)  # where each of N belongs in [R, C]

    def spread(self, values: Tensor) -> Tensor:
        """Put values of N tokens where they belong: [R, C], 0 where nothing is."""
        return values.new_zeros(self.shape[0] * self.shape[1]).scatter(0, self.places, values).view(self.shape)


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
