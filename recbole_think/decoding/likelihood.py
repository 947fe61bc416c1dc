"""How likely a code is: log-probabilities out of the model's head, always in float32.

A bfloat16 logit of size 16 is one of a grid of eighths: many codes tie, and lists change by more than ties. So the rows
of the codes at hand are multiplied in float32 in any precision; only the sum over words, if asked for, is not.

B users, K beams, C children, S codes of a level, d hidden size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NORMALIZE = ("vocab", "level", "valid")


def child_scores(model: Any, hidden: Tensor, tokens: Tensor, code: Tensor, legal: Tensor, normalize: str) -> Tensor:
    """Log-probability of every child: float32 [B, K, C] on the CPU, -inf where not legal.

    Args:
        model: causal LM.
        hidden: [B, K, d], what the code is predicted from.
        tokens: int64 [S], token ids of the level's codes.
        code: int64 [B, K, C], code of each child.
        legal: bool [B, K, C].
        normalize: ``vocab``, ``level`` or ``valid``.

    Raises:
        FloatingPointError: a logit is NaN or infinite.
    """
    head = model.get_output_embeddings()
    logits = code_logits(head, hidden, tokens)
    norm = _log_normalizer(head, hidden).cpu() if normalize == "vocab" else None
    logits = logits.cpu()
    if not torch.isfinite(logits).all() or (norm is not None and not torch.isfinite(norm).all()):
        raise FloatingPointError("the language model gave NaN or infinite logits while decoding")
    of_children = logits.expand(*code.shape[:2], -1).gather(2, code).masked_fill(~legal, -torch.inf)
    if normalize == "level":
        norm = logits.logsumexp(-1, keepdim=True)
    elif norm is None:
        norm = of_children.logsumexp(-1, keepdim=True).nan_to_num(neginf=0.0)
    return of_children - norm


def code_logits(head: Any, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Logits of some tokens: float32 [..., S]."""
    if hasattr(head, "code_logits"):
        return head.code_logits(hidden, tokens)
    if type(head) is not nn.Linear:  # adapters and quantised heads know their rows only as a whole
        return head(hidden)[..., tokens.to(hidden.device)].float()
    chosen = tokens.to(head.weight.device)
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if head.bias is None else head.bias[chosen].float()
        return functional.linear(hidden.float(), head.weight[chosen].float(), bias)


def _log_normalizer(head: Any, hidden: Tensor) -> Tensor:
    """Log of the sum over the vocabulary: float32 [B, K, 1]."""
    flat = hidden.flatten(0, 1)
    if hasattr(head, "log_normalizer"):
        found = head.log_normalizer(flat)
    else:
        on = torch.is_autocast_enabled(hidden.device.type)
        found = head(flat if on else flat.to(next(head.parameters()).dtype)).float().logsumexp(-1)
    return found.view(*hidden.shape[:2], 1)
