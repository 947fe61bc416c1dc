"""How far lists in bfloat16 are from those in float32, and what of it is to blame, on the model of a finished run.

    python benchmarks/precision.py <run folder of OneRecThink> [--users=400]

Ranks validation users (never the test split) in float32 and with more and more in bfloat16; tells the error of a score,
the share of equal first tens, their overlap, and NDCG@10 with its paired difference. Prints the table of
docs/performance.md and writes benchmarks/results/precision.json.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import agreement, keep
from torch import Tensor, nn

from recbole_think import load
from recbole_think.decoding.allowed import allowed_items
from recbole_think.decoding.beam import Search, search
from recbole_think.decoding.masked import MaskedReader
from recbole_think.decoding.packed import PackedReader
from recbole_think.decoding.precision import lowered
from recbole_think.memory import keep_memory
from recbole_think.prompts.batching import prompt_batch, token_batches

FIRST = 10  # places of a list that are compared


class RoundedHead(nn.Module):
    """A head whose logits of codes are rounded to bfloat16, as a product in bfloat16 gives them."""

    def __init__(self, head: Any):
        super().__init__()
        self.head = head

    def code_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """See ``CodeHead``."""
        return self.head.code_logits(hidden, tokens).bfloat16().float()

    def log_normalizer(self, hidden: Tensor) -> Tensor:
        """See ``CodeHead``."""
        return self.head.log_normalizer(hidden)


def main() -> None:
    """Rank in every way and compare with float32."""
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--users", type=int, default=400, help="validation users; 0 = all")
    given = parser.parse_args()
    run = load(given.run_folder)
    model, (loader, histories) = run.model, run.splits["valid"]
    model.item_mask = histories
    rows = list(range(len(loader.dataset)))[: given.users or None]
    asked = model.asked(loader.collate_fn(rows)[0])
    targets = loader.dataset.inter_feat[model.ITEM_ID].numpy()[rows]
    language, low = model.language_model, lowered(model.language_model, torch.bfloat16)
    ways = {
        "float32": (language, PackedReader, False),
        "everything (model.to(bfloat16))": (rounded(copy.deepcopy(language).to(torch.bfloat16)), MaskedReader, False),
        "autocast, logits of codes bfloat16": (rounded(language), MaskedReader, True),
        "autocast, logits of codes float32": (language, MaskedReader, True),
        "ours: products alone": (low, PackedReader, False),
    }
    found = {}
    for normalize in ("level", "vocab"):
        ranked = {name: rank(model, asked, way, normalize) for name, way in ways.items()}
        found[normalize] = {name: compare(ranked["float32"], other, targets) for name, other in ranked.items()}
        print(f"softmax over {normalize}; neighbours among the first ten {gap(ranked['float32']):.3f} apart (median)")
        for name, row in found[normalize].items():
            print(f"| {name} | " + " | ".join(f"{value:.4f}" for value in row.values()) + " |", flush=True)
    keep("precision", argparse.Namespace(users=len(rows)), cases=found)


def rounded(language: Any) -> Any:
    """The same model with logits of codes in bfloat16."""
    other = copy.copy(language)
    other._modules = dict(language._modules)
    other.set_output_embeddings(RoundedHead(language.get_output_embeddings()))
    return other


@torch.no_grad()
def rank(model: Any, asked: Any, way: tuple, normalize: str) -> tuple[list[list[int]], list[Tensor]]:
    """Lists and scores of all users."""
    language, kind, autocast = way
    ranker, options = model.ranker, model.options["decode"]
    lists: list[list[int]] = [[] for _ in asked.prompts]
    scores: list[Tensor] = [torch.empty(0) for _ in asked.prompts]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for rows in token_batches([len(prompt) for prompt in asked.prompts], options.tokens_per_batch):
            some, reader = asked.rows(rows), kind(language)
            hidden, at = reader.prompts(*prompt_batch(some.prompts, ranker.vocabulary.tokenizer.pad_token_id))
            fixed = Search(language, reader, ranker.trie, ranker.vocabulary.code_tokens, normalize)
            allowed = allowed_items(ranker.trie, len(rows), None, model.mask_of(some.users))
            result = search(fixed, hidden, at, options.num_beams, allowed)
            for row, items, values in zip(rows, result.items.tolist(), result.scores, strict=True):
                lists[row], scores[row] = items, values
    return lists, scores


def compare(exact: tuple, other: tuple, targets: np.ndarray) -> dict[str, float]:
    """Error of a score, agreement of the first places, NDCG@10, its paired difference and that one's standard error."""
    known = [dict(zip(items, scores.tolist(), strict=True)) for items, scores in zip(*other, strict=True)]
    errors = [
        abs(of[item] - score)
        for of, items, scores in zip(known, *exact, strict=True)
        for item, score in zip(items[:FIRST], scores.tolist(), strict=False)
        if item in of
    ]
    same = agreement([items[:FIRST] for items in exact[0]], [items[:FIRST] for items in other[0]])
    gains, base = ndcg(other[0], targets), ndcg(exact[0], targets)
    difference = gains - base
    return {
        "score_error": float(np.mean(errors)), "same_first_ten": same["identical_lists"] / len(targets),
        "overlap": same["overlap"], "ndcg": float(gains.mean()), "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
    }  # fmt: skip


def ndcg(lists: list[list[int]], targets: np.ndarray) -> np.ndarray:
    """NDCG@10 of every user; lists hold rows of the catalogue, targets RecBole's ids."""
    gains = np.zeros(len(targets))
    for user, (items, target) in enumerate(zip(lists, targets - 1, strict=True)):
        if target in items[:FIRST]:
            gains[user] = 1 / np.log2(items.index(target) + 2)
    return gains


def gap(exact: tuple) -> float:
    """Median distance of neighbours among the first places."""
    return float(torch.stack([scores[: FIRST - 1] - scores[1:FIRST] for scores in exact[1]]).median())


if __name__ == "__main__":
    main()
