"""The trie of ten thousand and of a million items: bytes, build time, and what a decode step pays for it.

    python benchmarks/trie.py [--layers=0] [--users=16] [--tokens=200] [--beams=10] [--repeats=5]

The peer is the usual one in the same run: a Python dictionary from prefix to legal tokens, asked by a callback for
every beam of every step (transformers' PrefixConstrainedLogitsProcessor). "Step" is a whole decode step of all beams:
the model's forward pass, probabilities and trie under a history mask; "mask" is paid once a search.
Writes benchmarks/results/trie.json.
"""

import argparse
import sys
import time
from typing import Any

import torch
from bench import keep, options
from floor import median_seconds, ranking_seconds
from transformers import PrefixConstrainedLogitsProcessor
from world import legal_tokens, random_codes, taught_backbone, word_prompts

from recbole_think.decoding.allowed import Allowed
from recbole_think.decoding.beam import Search
from recbole_think.decoding.reading import reader_of
from recbole_think.decoding.trie import SidTrie
from recbole_think.memory import keep_memory
from recbole_think.prompts.batching import prompt_batch

LEVELS, SIZE, CATALOGUES = 4, 256, (10_000, 1_000_000)
MASKED = 50  # items of a history


def main() -> None:
    """Measure both catalogues, print and write them."""
    keep_memory()
    given = options(__doc__, layers=0, users=16, tokens=200, beams=10, repeats=5).parse_args()
    found = {items: measure(items, given) for items in CATALOGUES}
    heads = (
        "bytes an item | dictionary | build, s | trie of a step, ms | callbacks, ms | mask, ms | step, ms | floor, ms"
    )
    print(f"| items | {heads} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for items, row in found.items():
        times = " | ".join(
            f"{1e3 * row[name]:.2f}" for name in ("trie_s", "callbacks_s", "mask_s", "step_s", "step_floor_s")
        )
        sizes = f"{row['bytes_per_item']:.1f} | {row['dictionary_bytes_per_item']:.0f}"
        print(f"| {items:,} | {sizes} | {row['build_s']:.2f} | {times} |")
    small, large = (found[items]["step_s"] for items in CATALOGUES)
    print(f"step of a million items over step of ten thousand: {large / small:.2f}")
    keep("trie", given, catalogues=found, step_ratio=large / small)


def measure(items: int, given: argparse.Namespace) -> dict[str, Any]:
    """One catalogue: the trie, the dictionary, and a step of each level after the first with all beams."""
    codes = random_codes(items, LEVELS, SIZE)
    table = torch.from_numpy(codes.table)
    start = time.perf_counter()
    trie = SidTrie(table)
    build = time.perf_counter() - start
    model, vocabulary = taught_backbone(given.layers, random_codes(10_000, LEVELS, SIZE))  # the same codes, few texts
    item_tokens = table + torch.tensor([int(level[0]) for level in vocabulary.code_tokens])
    legal = legal_tokens(item_tokens)
    ids, mask = prompt_batch(word_prompts(given.users, given.tokens, vocabulary.first), 0)
    reader = reader_of(model, ids.shape[1] + LEVELS)
    search = Search(model, reader, trie, vocabulary.code_tokens, "level")
    dice = torch.Generator().manual_seed(0)
    rows = torch.randint(items, (given.users, given.beams), generator=dice)
    said = [item_tokens[rows.flatten(), :level] for level in range(1, LEVELS)]  # per level [B * K, level]
    mask_of_items = torch.zeros(given.users, items, dtype=torch.bool)
    mask_of_items[:, torch.randint(items, (MASKED,), generator=dice)] = True
    allowed = Allowed(trie, mask_of_items)
    callback = PrefixConstrainedLogitsProcessor(lambda _, beam: legal[tuple(beam.tolist())], given.beams)
    logits = torch.zeros(rows.numel(), vocabulary.first + LEVELS * SIZE)
    with torch.no_grad():
        _, at = reader.prompts(ids, mask)
        parent = torch.zeros(given.users, given.beams, dtype=torch.int64)
        places = [nodes_of(trie, table[rows], level) for level in range(1, LEVELS)]

        def expand() -> None:
            for level, nodes in enumerate(places, start=1):
                child, _ = trie.children(level, nodes)
                allowed.alive(level + 1, child)
                trie.codes[level][child].long()

        def step() -> None:
            where, chosen = at, parent
            for level, nodes in enumerate(places, start=1):
                tokens = item_tokens[rows][..., level - 1]
                hidden, where = reader.step(where, tokens, chosen)
                search.expand(level, nodes, hidden, allowed)
                chosen = torch.arange(given.beams).expand_as(parent)

        steps = LEVELS - 1
        return {
            "bytes_per_item": trie.nbytes / items,
            "dictionary_bytes_per_item": dictionary_bytes(legal) / items,
            "build_s": build,
            "trie_s": median_seconds(expand, given.repeats) / steps,
            "callbacks_s": median_seconds(lambda: [callback(beams, logits) for beams in said], given.repeats) / steps,
            "mask_s": median_seconds(lambda: Allowed(trie, mask_of_items), given.repeats),
            "step_s": median_seconds(step, given.repeats) / steps,
            "step_floor_s": step_floor(model.config, given),
        }


def step_floor(config: Any, given: argparse.Namespace) -> float:
    """Least seconds of a step of all beams: what a second level adds to ranking after a first one."""
    asked = (config, [given.tokens] * given.users, given.beams)
    return ranking_seconds(*asked, [SIZE, SIZE], torch.float32) - ranking_seconds(*asked, [SIZE], torch.float32)


def nodes_of(trie: SidTrie, codes: torch.Tensor, level: int) -> torch.Tensor:
    """Nodes of ``level`` that codes [B, K, L] pass through: int64 [B, K]."""
    nodes = torch.zeros(codes.shape[:2], dtype=torch.int64)
    for above in range(level):
        child, exists = trie.children(above, nodes)
        match = exists & (trie.codes[above][child] == codes[..., above, None])
        nodes = child.gather(2, match.int().argmax(2, keepdim=True)).squeeze(2)
    return nodes


def dictionary_bytes(legal: dict[tuple[int, ...], list[int]]) -> int:
    """Bytes of a dictionary with its keys and lists; small integers are shared and not counted."""
    return sys.getsizeof(legal) + sum(sys.getsizeof(key) + sys.getsizeof(value) for key, value in legal.items())


if __name__ == "__main__":
    main()
