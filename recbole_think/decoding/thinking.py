"""Think, then recommend: thoughts are sampled, beams go on from each, and what they name is merged into one list.

The prompt is read once for all thoughts, and a thought once for all its beams. A list never names an item twice.
B users, N thoughts of each, K beams of a thought, S tokens of the longest thought, n items.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from recbole_think.decoding.allowed import allowed_items
from recbole_think.decoding.beam import BeamResult, Search, search
from recbole_think.decoding.exact import score_targets
from recbole_think.decoding.item_mask import Mask, cells_of
from recbole_think.decoding.sampling import Samples

MERGE = ("marginal", "max", "vote")


@dataclass(frozen=True)
class Thoughts:
    """What was thought, and what each thought led to."""

    tokens: Tensor  # int64 [B, N, S], the closing mark last, then padding with it
    lengths: Tensor  # int64 [B, N], closing mark included
    closed: Tensor  # bool [B, N], False = closed at the length limit
    beams: BeamResult  # of B * N rows, a user's thoughts side by side
    log_probs: Tensor | None = None  # float32 [B * N], of the item asked for


def led_to(
    fixed: Search, samples: Samples, num_beams: int, item_mask: Mask | None = None,
    targets: Tensor | None = None,
) -> Thoughts:  # fmt: skip
    """Let beams go on from the end of every sampled thought.

    Args:
        fixed: model, catalogue and normalisation; its reader is the samples' own.
        samples: thoughts.
        num_beams: K, of each thought.
        item_mask: bool [B, n], True = may not be named, or its cells.
        targets: int64 [B], rows of the catalogue to be scored besides; masks do not concern them.
    """
    users, count = samples.lengths.shape
    mask = None if item_mask is None else cells_of(item_mask).repeated(count)
    allowed = allowed_items(fixed.trie, users * count, None, mask)
    log_probs = None
    if targets is not None:
        log_probs = score_targets(fixed, samples.hidden, samples.at, targets.repeat_interleave(count))
    beams = search(fixed, samples.hidden, samples.at, min(num_beams, fixed.trie.n), allowed)
    return Thoughts(samples.tokens, samples.lengths, samples.closed, beams, log_probs)


def merged(beams: BeamResult, thoughts: int, how: str = "marginal") -> list[list[int]]:
    """Join the lists of each user's thoughts into one, best first, every item once.

    ``marginal``: log of the mean, over thoughts, of an item's probability; an item a thought's beams did not reach
    counts as impossible there, so this is a lower bound. ``max``: the best of its scores. ``vote``: how many thoughts
    reached it, its marginal between equals. Ties go to the smaller item.

    Args:
        beams: of B * N rows.
        thoughts: N.
        how: one of ``MERGE``.

    Returns:
        Per user rows of the catalogue, at most N * K.
    """
    items = beams.items.view(-1, thoughts * beams.items.shape[1])  # [B, N * K]
    scores = beams.scores.view(items.shape)
    key: Callable[[list[float]], tuple[float, ...]] = {
        "marginal": lambda found: (_log_sum(found),),
        "max": lambda found: (max(found),),
        "vote": lambda found: (len(found), _log_sum(found)),
    }[how]
    ranked = []
    for row, points in zip(items.tolist(), scores.tolist(), strict=True):
        found: dict[int, list[float]] = {}
        for item, score in zip(row, points, strict=True):
            if item >= 0:
                found.setdefault(item, []).append(score)
        best = {item: key(of_item) for item, of_item in found.items()}
        ranked.append(sorted(best, key=lambda item: (*(-part for part in best[item]), item)))
    return ranked


def _log_sum(scores: list[float]) -> float:
    most = max(scores)
    return most + math.log(sum(math.exp(score - most) for score in scores))
