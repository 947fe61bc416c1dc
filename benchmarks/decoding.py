"""Constrained beam search against Hugging Face's generate with prefix_allowed_tokens_fn, and against its floor.

    python benchmarks/decoding.py [--layers=0] [--users=16] [--tokens=200] [--items=12101] [--beams 10 50] [--repeats=3]

Same weights, prompts (of unequal length), catalogue and beams on both sides, both in this process, in turn, in float32
and in bfloat16. The figures to quote are ratios: generate over ours, and ours over the floor (floor.py). Writes
benchmarks/results/decoding.json.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from floor import Product, attention_products, bandwidth, layer_products, products_seconds
from world import (
    generated_lists,
    legal_tokens,
    plain,
    random_codes,
    taught_backbone,
    threads,
    word_prompts,
)

from recbole_think.artifacts import versions, write_json
from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.trie import SidTrie
from recbole_think.memory import keep_memory
from recbole_think.prompts.batching import prompt_batch
from recbole_think.record import hardware

LEVELS, SIZE = 4, 256
PEER_SEQUENCES = 200  # of generate at a time: 16 users x 50 beams x 240 positions would take more than 20 GiB
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    """Time both sides in every case and write the table."""
    keep_memory()
    given = arguments()
    codes = random_codes(given.items, LEVELS, SIZE)
    model, vocabulary = taught_backbone(given.layers, codes, given.backbone)
    prompts = word_prompts(given.users, given.tokens, vocabulary.first)
    trie, legal = SidTrie(torch.from_numpy(codes.table)), legal_tokens(vocabulary.item_tokens)
    ids, mask = prompt_batch(prompts, vocabulary.tokenizer.pad_token_id)
    print("| case | ours, s | generate, s | ratio | floor, s | over floor | identical lists | overlap |")
    print("|---|---|---|---|---|---|---|---|")
    cases = []
    for name in given.precisions:
        dtype = DTYPES[name]
        mine, peer = lowered(model, dtype), plain(model).to(dtype)
        for beams in given.beams:
            sides: dict[str, Callable] = {
                "ours": lambda m=mine, k=beams: beam_search(
                    m, ids, mask, trie, vocabulary.code_tokens, k
                ).items.tolist(),
                "generate": lambda m=peer, k=beams: theirs(m, prompts, vocabulary, legal, k),
            }
            floor = floor_seconds(model.config, [len(prompt) for prompt in prompts], beams, dtype, vocabulary)
            case = {"precision": name, "beams": beams, "floor": floor, **compare(sides, given)}
            cases.append(case)
            print(row(case), flush=True)
    path = Path(__file__).parent / "results" / "decoding.json"
    record = {"setting": vars(given), "cases": cases, **threads()}
    write_json(path, {**record, "hardware": hardware(), "versions": versions()})


def theirs(peer: Any, prompts: list, vocabulary: Any, legal: dict, beams: int) -> list[list[int]]:
    """Rank with generate, as many users at a time as it has memory for: it copies every prompt for every beam."""
    together = max(1, PEER_SEQUENCES // beams)
    groups = [prompts[begin : begin + together] for begin in range(0, len(prompts), together)]
    return [ranked for group in groups for ranked in generated_lists(peer, group, vocabulary, legal, beams)]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"layers": 0, "users": 16, "tokens": 200, "items": 12101, "repeats": 3}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peer_repeats", type=int, default=1, help="of generate, which takes minutes at 50 beams")
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--backbone", default="smollm2-135m")
    return parser.parse_args()


def compare(sides: dict[str, Callable], given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both sides, in turn, and how far their lists agree."""
    sides["ours"]()  # sets up
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    lists = {}
    for repeat in range(given.repeats):
        for name, side in sides.items():
            if name == "ours" or repeat < given.peer_repeats:
                start = time.perf_counter()
                lists[name] = side()
                seconds[name].append(time.perf_counter() - start)
    pairs = list(zip(lists["ours"], lists["generate"], strict=True))
    return {
        "seconds": seconds,
        "ratio": statistics.median(seconds["generate"]) / statistics.median(seconds["ours"]),
        "identical_lists": sum(one == other for one, other in pairs),
        "overlap": statistics.mean(len(set(one) & set(other)) / len(one) for one, other in pairs),
    }


def floor_seconds(config: Any, lengths: list[int], beams: int, dtype: torch.dtype, vocabulary: Any) -> float:
    """Seconds of what must be computed: see floor.py.

    Prompts go through all layers but the last whole; of the last, keys and values of all tokens, the rest of the ends.
    Every step reads each weight from memory once.
    """
    users, tokens, layers = len(lengths), sum(lengths), config.num_hidden_layers
    rows = vocabulary.first + LEVELS * SIZE
    width = config.hidden_size
    work = layer_products(config, tokens, layers - 1)
    for length in lengths:
        work += attention_products(config, 1, length, length, layers - 1)
    shared = config.num_key_value_heads * width // config.num_attention_heads
    work += [Product(tokens, width, shared, 2)]
    work += [one for one in layer_products(config, users, 1) if one.columns != shared]
    mean = round(tokens / users)
    work += [*attention_products(config, users, 1, mean, 1), Product(users, width, rows)]
    for _ in range(LEVELS - 1):
        work += layer_products(config, users * beams, layers)
        work += [*attention_products(config, users, beams, mean, layers), Product(users * beams, width, rows)]
    weights = sum(one.inner * one.columns * one.count for one in layer_products(config, 1, layers)) + rows * width
    return products_seconds(work, dtype) + (LEVELS - 1) * weights * dtype.itemsize / bandwidth()


def row(case: dict[str, Any]) -> str:
    """One line of the table."""
    medians = {name: statistics.median(values) for name, values in case["seconds"].items()}
    cells = (
        f"{case['precision']}, {case['beams']} beams", f"{medians['ours']:.2f}", f"{medians['generate']:.1f}",
        f"{case['ratio']:.1f} x", f"{case['floor']:.2f}", f"{medians['ours'] / case['floor']:.2f} x",
        str(case["identical_lists"]), f"{case['overlap']:.3f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
