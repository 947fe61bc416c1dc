"""Several continuations of every prompt, sampled side by side: the prompt is read once, however many there are.

What was sampled stays read: beams may go on from the end of every continuation without reading it again.
What may be said is named by the caller: a few hundred words cost a small part of 49,152.
Chance comes in as numbers, one per token, so that a continuation is the same in any company, and so that two models
can be compared under the same chance (inverse transform sampling).
B prompts, N continuations of each, S tokens of the longest, V tokens that may be said, d hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_think.decoding.reading import Reader, reader_of
from recbole_think.errors import InputError
from recbole_think.options import check

AFTER = 16  # tokens that may follow a continuation: the codes of an item


@dataclass(frozen=True)
class SampleOptions:
    """How continuations are drawn."""

    samples: int = 4  # continuations of every prompt
    max_tokens: int = 64  # of each; one that has not stopped by then is closed with the stop token
    temperature: float = 1.0  # 0 = the most likely token
    top_k: int = 0  # of the most likely tokens; 0 = all

    def __post_init__(self):
        for name in ("samples", "max_tokens"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        check(self.temperature >= 0, f"temperature must not be negative, got {self.temperature}")
        check(self.top_k >= 0, f"top_k must be 0 (all) or more, got {self.top_k}")


@dataclass(frozen=True)
class Samples:
    """Continuations, and where the reader stands after each."""

    tokens: Tensor  # int64 [B, N, S], the stop token last, then padding with it
    lengths: Tensor  # int64 [B, N], tokens of each, the stop token included
    log_probs: (
        Tensor  # float32 [B, N, S] of each token before temperature and top_k; 0 behind the end, and if not drawn
    )
    closed: Tensor  # bool [B, N], True = it stopped by itself, False = it was closed at the limit
    hidden: Tensor  # [B * N, 1, d], after the stop token
    reader: Reader
    at: Any  # one row per continuation


@torch.no_grad()
def sample(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    options: SampleOptions,
    stop: int,
    noise: Tensor,
    only: Tensor | None = None,
) -> Samples:
    """Draw ``options.samples`` continuations of each prompt.

    Args:
        model: causal LM.
        input_ids: int64 [B, T], left-padded.
        attention_mask: int64 [B, T].
        options: how to draw.
        stop: token that ends a continuation.
        noise: float32 [B, N, max_tokens] in [0, 1), on the CPU, as ``noise_of`` gives it.
        only: int64 token ids that may be drawn, in rising order; None = all.

    Raises:
        InputError: the stop token may not be drawn.
        FloatingPointError: the model gives logits that are not numbers.
    """
    if only is not None and not (only == stop).any():
        raise InputError(f"the stop token {stop} may not be drawn: a continuation could never end")
    reader = reader_of(model, input_ids.shape[1] + options.max_tokens + AFTER)
    hidden, at = reader.prompts(input_ids, attention_mask)
    users, count = len(input_ids), options.samples
    hidden = hidden.expand(-1, count, -1)  # [B, N, d]
    last = hidden
    live, closed = torch.ones(users, count, dtype=torch.bool), torch.zeros(users, count, dtype=torch.bool)
    tokens, log_probs, lengths = [], [], torch.zeros(users, count, dtype=torch.int64)
    for place in range(options.max_tokens):
        likely = _log_probs(model, hidden, only)  # [B, N, V]
        place_of = _draw(likely, options, noise[:, :, place])
        of_drawn = likely.gather(2, place_of.unsqueeze(2)).squeeze(2).cpu()
        place_of = place_of.cpu()
        drawn = place_of if only is None else only[place_of]
        closed |= live & (drawn == stop)
        over = ~live if place + 1 < options.max_tokens else torch.ones_like(live)
        log_probs.append(of_drawn.masked_fill(over & ~(live & (drawn == stop)), 0.0))
        drawn = drawn.masked_fill(over, stop)
        tokens.append(drawn)
        lengths += live
        parent = torch.zeros_like(drawn) if place == 0 else None  # all go off from the prompt, then each by itself
        hidden, at = reader.step(at, drawn, parent, live)
        last = torch.where(live.unsqueeze(2).to(hidden.device), hidden, last)
        live = live & (drawn != stop)
        if not live.any():
            break
    ends = last.flatten(0, 1).unsqueeze(1)
    return Samples(torch.stack(tokens, 2), lengths, torch.stack(log_probs, 2), closed, ends, reader, reader.opened(at))


@torch.no_grad()
def reread(
    model: Any, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor, lengths: Tensor, closed: Tensor,
    log_probs: Tensor,
) -> Samples:  # fmt: skip
    """Read continuations that another engine drew: what ``sample`` gives had it drawn the very same.

    Args:
        model: causal LM.
        input_ids: int64 [B, T], left-padded.
        attention_mask: int64 [B, T].
        tokens: int64 [B, N, S], the stop token last, then padding with it.
        lengths: int64 [B, N], the stop token included.
        closed: bool [B, N], it stopped by itself.
        log_probs: float32 [B, N, S], by the engine.
    """
    reader = reader_of(model, input_ids.shape[1] + tokens.shape[2] + AFTER)
    hidden, at = reader.prompts(input_ids, attention_mask)
    last = hidden.expand(-1, tokens.shape[1], -1)  # [B, N, d]
    for place in range(tokens.shape[2]):
        live = place < lengths
        parent = torch.zeros_like(lengths) if place == 0 else None  # all go off from the prompt, then each by itself
        hidden, at = reader.step(at, tokens[:, :, place], parent, live)
        last = torch.where(live.unsqueeze(2).to(hidden.device), hidden, last)
    return Samples(tokens, lengths, log_probs, closed, last.flatten(0, 1).unsqueeze(1), reader, reader.opened(at))


def noise_of(seeds: Sequence[Sequence[int]], options: SampleOptions) -> Tensor:
    """Numbers in [0, 1) for every token of every continuation, from one seed per prompt: float32 [B, N, S]."""
    shape = options.samples, options.max_tokens
    drawn = [np.random.default_rng(list(seed)).random(shape, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(drawn))


def _draw(likely: Tensor, options: SampleOptions, noise: Tensor) -> Tensor:
    """Place of one token of each distribution [B, N, V], by the numbers [B, N]: int64 [B, N]."""
    if options.temperature == 0:
        return likely.argmax(2)
    flat = likely / options.temperature
    if options.top_k:
        least = flat.topk(min(options.top_k, flat.shape[2])).values[..., -1:]
        flat = flat.masked_fill(flat < least, -torch.inf)
    sums = flat.softmax(2).cumsum(2)
    # the last sum is not quite 1; a place whose sum is that of the one before has no share, and is never found
    found = torch.searchsorted(sums, noise.to(sums.device).unsqueeze(2) * sums[..., -1:], right=True).squeeze(2)
    last = torch.searchsorted(sums, sums[..., -1:].contiguous()).squeeze(2)
    return torch.minimum(found, last)


def _log_probs(model: Any, hidden: Tensor, only: Tensor | None) -> Tensor:
    """Log-probabilities of the next token among those that may be said: float32 [B, N, V], where the model is."""
    logits = _logits(model.get_output_embeddings(), _at_head(model, hidden), only).float()
    if not torch.isfinite(logits).all():
        raise FloatingPointError("the language model gave NaN or infinite logits while sampling")
    return logits.log_softmax(2)


def _logits(head: Any, hidden: Tensor, only: Tensor | None) -> Tensor:
    if only is None:
        return head(hidden)
    if hasattr(head, "token_logits"):
        return head.token_logits(hidden, only)
    return head(hidden)[..., only.to(hidden.device)]


def _at_head(model: Any, hidden: Tensor) -> Tensor:
    """Hidden states in the precision the head multiplies in."""
    if torch.is_autocast_enabled(hidden.device.type):
        return hidden
    return hidden.to(next(model.get_output_embeddings().parameters()).dtype)
