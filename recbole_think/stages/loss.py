"""The loss of every supervised stage: cross-entropy of the tokens an example supervises.

Of a recommendation a code competes with the codes of its level alone, since a trie will never let a word follow there;
of a plain text every token competes with all words and codes, of a thought with those it may be made of.
N supervised positions of a batch, S codes of a level, W words of thoughts, d hidden size.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from recbole_think.prompts.batching import IGNORED
from recbole_think.prompts.soft import level_shares
from recbole_think.stages.cross_entropy import vocabulary_loss
from recbole_think.stages.dropout import dropout as dropped


def token_loss(
    model, batch: dict[str, Tensor], code_tokens: list[Tensor], dropout: float, words: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of the supervised tokens of a batch.

    Args:
        model: causal LM with itemic rows.
        batch: what ``packed_batch`` gives; labels stand at the position that predicts them. ``mean_over``, where there
            is one, is how many tokens the sum is divided by instead: the batch is a process's share of a larger one.
        code_tokens: L int64 tensors of token ids.
        dropout: share of embedded features dropped while training.
        words: int64 [W], rising: what plain tokens are predicted out of; None = all words and codes.
    """
    batch = _beside(model, batch)
    hidden, targets, plain = _supervised(model, batch, dropout)
    head, total = model.get_output_embeddings(), torch.zeros((), device=hidden.device)
    if plain.any():
        of_plain = hidden[plain], targets[plain]
        total = total + (vocabulary_loss(head, *of_plain) if words is None else _loss_among(head, *of_plain, words))
    soft_rows = batch["soft_rows"][batch["labels"] != IGNORED] if "soft_rows" in batch else None
    for level, tokens in enumerate(code_tokens):
        of_level = ~plain & (targets >= tokens[0]) & (targets <= tokens[-1])
        logits = head.code_logits(hidden[of_level], tokens)  # float32 [N_level, S]
        losses = functional.cross_entropy(logits, targets[of_level] - tokens[0], reduction="none")
        if soft_rows is not None:
            losses = _softened(losses, logits, batch, soft_rows[of_level], level)
        total = total + losses.sum()
    return total / batch.get("mean_over", len(targets))


def _softened(losses: Tensor, logits: Tensor, batch: dict[str, Tensor], rows: Tensor, level: int) -> Tensor:
    """Mix the loss against soft labels into that against true codes, where there are any: float32 [N_level]."""
    known = rows >= 0
    names = ("soft_codes", "soft_shares", "soft_weight", "soft_target")
    codes, shares, weight, target = (batch[name][rows[known]] for name in names)
    labels, said = level_shares(codes, shares, target, level, logits.shape[1])
    soft = -(labels * logits[known].log_softmax(-1)).sum(1)
    mixed = torch.where(said, (1 - weight) * losses[known] + weight * soft, losses[known])
    return losses.masked_scatter(known, mixed)


def _loss_among(head, hidden: Tensor, targets: Tensor, words: Tensor) -> Tensor:
    """Summed cross-entropy of tokens out of ``words``, which hold them all."""
    places = torch.searchsorted(words.to(targets.device), targets)
    return functional.cross_entropy(head.token_logits(hidden, words), places, reduction="sum")


@torch.no_grad()
def perplexity(model, batches: Iterable[dict[str, Tensor]], words_alone: bool) -> float:
    """Perplexity of the supervised tokens of general text.

    Args:
        model: causal LM with itemic rows.
        batches: plain texts, as ``packed_batch`` gives them.
        words_alone: leave the codes out of the softmax: what the backbone says before codes have learnt anything.
    """
    total, count = 0.0, 0
    for batch in batches:
        hidden, targets, _ = _supervised(model, _beside(model, batch), 0.0)
        total += float(vocabulary_loss(model.get_output_embeddings(), hidden, targets, words_alone))
        count += len(targets)
    return math.exp(total / count)


def _beside(model, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch where the model is; transformers' trainer has brought those of training, held-out ones are on the CPU."""
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}


def _supervised(model, batch: dict[str, Tensor], dropout: float) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states that predict something [N, d], the tokens they predict [N], and which are plain, bool [N]."""
    embedded = model.get_input_embeddings()(batch["input_ids"])
    embedded = dropped(embedded, dropout, model.training)
    out = model.get_decoder()(
        inputs_embeds=embedded,
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
    )
    chosen = batch["labels"] != IGNORED
    return out.last_hidden_state[chosen], batch["labels"][chosen], batch["plain"][chosen]
