"""Does thinking help? Measured on one sample of users, against twins that differ in the thought alone.

Twins have as many candidates and the same text in their prompts (docs/fairness.md): without a thought, with an empty
one, and with another user's. U users of the sample, N thoughts of each, K beams of a thought.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from recbole_think.decoding.options import DecodeOptions
from recbole_think.options import check
from recbole_think.paired import bootstrap_p, interval, of_ranks
from recbole_think.prompts.filters import groups_of
from recbole_think.prompts.rationale import decoded, items_by_tokens
from recbole_think.prompts.thinking import given_thought
from recbole_think.ranker import MaskOf, Ranker, Thought

WEAK = 0.05  # a p-value above this tells nothing
CONSTANT = 0.1  # at most this share of thoughts distinct: few, and perhaps not about anybody


@dataclass(frozen=True)
class InstrumentOptions:
    """How thinking is measured (YAML block ``instruments:``)."""

    users: int = 200  # a fixed sample of the test users; 0 = all

    def __post_init__(self):
        check(self.users == 0 or self.users >= 2, f"instruments.users must be 0 (all) or at least 2, got {self.users}")


@dataclass(frozen=True)
class Sample:
    """Users that thinking is measured on."""

    prompts: list[np.ndarray]  # token ids, up to where an answer or a thought begins
    histories: list[np.ndarray]  # RecBole ids the prompts show
    targets: np.ndarray  # int64 [U], RecBole ids
    mask_of: MaskOf


def measure(
    ranker: Ranker, sample: Sample, options: DecodeOptions, dtype: torch.dtype, topk: Sequence[int], seed: int,
    metrics: Sequence[str] = ("recall", "ndcg", "mrr"),
) -> dict[str, Any]:  # fmt: skip
    """Measure what a thought is worth.

    Args:
        ranker: language model and catalogue.
        sample: users.
        options: how lists are made after thinking.
        dtype: what the model multiplies in.
        topk: lengths of list.
        seed: of the bootstrap.
        metrics: by name, as in ``per_user``.

    Returns:
        n_users; metrics of ``thinking``, ``twin``, ``empty`` and ``other_user``; ``gain`` of thinking over its twin
        with its 95 % interval; ``dll`` in nats; legality, citation_validity, closed, distinct_thoughts,
        thought_tokens, cost_ratio; p_value of thinking against its twin, and against another user's thoughts; notes.
    """
    thoughtful = replace(options, think=True)
    direct = replace(options, think=False, num_beams=thoughtful.candidates)
    ranker.take_illegal_rate()
    thinking, thinking_s = _timed(lambda: ranker.rank(sample.prompts, sample.mask_of, thoughtful, dtype))
    legality = 1 - ranker.take_illegal_rate()
    twin, twin_s = _timed(lambda: ranker.rank(sample.prompts, sample.mask_of, direct, dtype))
    thoughts = ranker.think(sample.prompts, sample.mask_of, options, dtype, sample.targets)
    closed = [given_thought(prompt, [], ranker.vocabulary) for prompt in sample.prompts]
    lists = {
        "thinking": thinking,
        "twin": twin,
        "empty": ranker.rank(closed, sample.mask_of, direct, dtype),
        "other_user": _of_others(ranker, sample, thoughts, options, dtype),
    }
    scores = {name: per_user(ranked, sample.targets, topk, metrics) for name, ranked in lists.items()}
    found: dict[str, Any] = {
        "n_users": len(sample.prompts),
        "candidates": {
            "thoughts": options.thoughts, "beams_each": options.thought_beams, "twin_beams": direct.num_beams,
        },
        **{name: {key: round(float(values.mean()), 6) for key, values in of.items()} for name, of in scores.items()},
        "gain": gains(scores["thinking"], scores["twin"], topk, seed),
        "dll": _dll(thoughts, ranker.log_probs(sample.prompts, sample.targets, direct, dtype)),
        "legality": legality,
        "citation_validity": citation_validity(ranker, sample, thoughts),
        **_shape([thought for of_user in thoughts for thought in of_user]),
        "cost_ratio": thinking_s / max(twin_s, 1e-9),
        "p_value": _p_values(scores["thinking"], scores["twin"], topk, seed),
        "p_value_other_user": _p_values(scores["thinking"], scores["other_user"], topk, seed),
    }  # fmt: skip
    return {**found, "notes": notes(found)}


def _dll(thoughts: Sequence[Sequence[Thought]], direct: np.ndarray) -> dict[str, float]:
    """How much likelier the target is after a thought than without, in nats; mean over the thoughts of a user.

    ``headroom``: log of the mean probability over a user's thoughts, less the mean of the logs. Thoughts of a model
    that knows how much each is worth, drawn in proportion, lose this much by chance, and no choice among them wins
    more on average (Jensen's inequality): what enhancement has to live on.
    """
    after = np.array([[thought.log_prob for thought in of_user] for of_user in thoughts])
    gains, together = after.mean(1) - direct, np.logaddexp.reduce(after, axis=1) - np.log(after.shape[1])
    return {
        "mean": float(gains.mean()),
        "standard_error": float(gains.std(ddof=1) / np.sqrt(len(gains))),
        "share_positive": float((gains > 0).mean()),
        "headroom": float((together - after.mean(1)).mean()),
    }


def _shape(every: Sequence[Thought]) -> dict[str, Any]:
    """How thoughts look from outside."""
    lengths = np.array([len(thought.ids) for thought in every])
    return {
        "closed": float(np.mean([thought.closed for thought in every])),
        "distinct_thoughts": len({tuple(thought.ids) for thought in every}) / len(every),
        "thought_tokens": {"mean": float(lengths.mean()), "p95": float(np.percentile(lengths, 95))},
    }


def per_user(
    ranked: Sequence[Sequence[int]], targets: np.ndarray, topk: Sequence[int], metrics: Sequence[str]
) -> dict[str, np.ndarray]:
    """Metrics of each user by name, such as ``ndcg@10``: float64 [U]."""
    ranks = np.array(
        [
            items.index(target) + 1 if target in items else 0
            for items, target in zip(ranked, targets.tolist(), strict=True)
        ]
    )
    return of_ranks(ranks, topk, metrics)


def citation_validity(ranker: Ranker, sample: Sample, thoughts: Sequence[Sequence[Thought]]) -> float | None:
    """Share of the items, and groups of items, named in thoughts that their history holds; None if none is named."""
    items_of = items_by_tokens(ranker.vocabulary)
    named = right = 0
    for history, of_user in zip(sample.histories, thoughts, strict=True):
        known = {*history.tolist(), *groups_of(history.tolist(), ranker.vocabulary)}
        for thought in of_user:
            for piece in decoded(thought.ids, ranker.vocabulary, items_of):
                if not isinstance(piece, str) or piece == "?":  # codes that are no item are named in vain
                    named += 1
                    right += piece in known
    return right / named if named else None


def notes(found: dict[str, Any]) -> list[str]:
    """What the figures say in words: whether thinking paid, and whether thoughts are about the user at all."""
    told = []
    for metric, p in found["p_value"].items():
        gain = found["thinking"][metric] - found["twin"][metric]
        word = (
            "no difference from the twin without" if p > WEAK else ("thinking helps" if gain > 0 else "thinking hurts")
        )
        told.append(f"{metric}: {word} ({gain:+.4f}, p = {p:.3f})")
    same = all(p > WEAK for p in found["p_value_other_user"].values())
    few = f"only {found['distinct_thoughts']:.1%} of the thoughts are distinct"
    if found["distinct_thoughts"] <= CONSTANT:
        told.append(f"{few}: they hardly depend on the user" if same else f"{few}, yet another user's do worse")
    if same:
        told.append("another user's thoughts do as well: what is thought about this user carries nothing")
    if found["dll"]["mean"] + 2 * found["dll"]["standard_error"] < 0:
        told.append("after a thought the true item is less likely than without (dLL < 0)")
    return told


def _of_others(
    ranker: Ranker, sample: Sample, thoughts: Sequence[Sequence[Thought]], options: DecodeOptions, dtype: torch.dtype
) -> list[list[int]]:
    """Lists after the thoughts of the next user of the sample."""
    others = [thoughts[(user + 1) % len(thoughts)] for user in range(len(thoughts))]
    return ranker.rank_after(sample.prompts, [[one.ids for one in of] for of in others], sample.mask_of, options, dtype)


def _p_values(
    one: dict[str, np.ndarray], other: dict[str, np.ndarray], topk: Sequence[int], seed: int
) -> dict[str, float]:
    return {name: bootstrap_p(one[name], other[name], seed) for name in _judged_by(topk)}


def gains(
    one: dict[str, np.ndarray], other: dict[str, np.ndarray], topk: Sequence[int], seed: int
) -> dict[str, dict[str, float]]:
    """Mean difference of the same users by metric, and its 95 % interval by the paired bootstrap over users."""
    found = {}
    for name in _judged_by(topk):
        gain = one[name] - other[name]
        low, high = interval(gain, seed)
        found[name] = {"mean": float(gain.mean()), "low": low, "high": high}
    return found


def _judged_by(topk: Sequence[int]) -> tuple[str, str]:
    k = 10 if 10 in topk else max(topk)
    return f"ndcg@{k}", f"recall@{k}"


def _timed(make: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    return make(), time.perf_counter() - begin
