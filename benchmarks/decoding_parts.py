"""What each technique of decoding gains alone: python benchmarks/decoding_parts.py [--layers=0] [--beams=10]

Packed prompts through the layers' own modules against the model's own forward pass with a tree mask; plain products
against the fused kernel in the prompt's attention; memory kept in the process against memory given back (a process of
its own). Prints a table; numbers of docs/performance.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from floor import head_size
from world import random_codes, taught_backbone, word_prompts

from recbole_think.decoding.attention import _padded, attend_prompts
from recbole_think.decoding.beam import Search, search
from recbole_think.decoding.masked import MaskedReader
from recbole_think.decoding.packed import PackedReader
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.trie import SidTrie
from recbole_think.memory import keep_memory
from recbole_think.prompts.batching import prompt_batch

ITEMS, LEVELS, SIZE, RETURNED = 12_101, 4, 256, "MEMORY_RETURNED"


def main() -> None:
    """Time every pair, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"layers": 0, "users": 16, "tokens": 200, "beams": 10, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    if RETURNED not in os.environ:
        keep_memory()
    codes = random_codes(ITEMS, LEVELS, SIZE)
    model, vocabulary = taught_backbone(given.layers, codes)
    prompts = word_prompts(given.users, given.tokens, vocabulary.first)
    ids, mask = prompt_batch(prompts, vocabulary.tokenizer.pad_token_id)
    trie, low = SidTrie(torch.from_numpy(codes.table)), lowered(model, torch.bfloat16)

    def beams(taught, kind) -> Callable[[], object]:
        def work() -> None:
            reader = kind(taught)
            hidden, at = reader.prompts(ids, mask)
            search(Search(taught, reader, trie, vocabulary.code_tokens, "vocab"), hidden, at, given.beams)

        return work

    with torch.no_grad():
        if RETURNED in os.environ:
            in_turn({"bfloat16, memory given back": beams(low, PackedReader)}, given.repeats)
            return
        for name, taught in {"float32": model, "bfloat16": low}.items():
            in_turn({f"{name}, packed": beams(taught, PackedReader),
                     f"{name}, the model's own forward pass": beams(taught, MaskedReader)}, given.repeats)  # fmt: skip
        attention(model.config, [len(prompt) for prompt in prompts], given.repeats)
    sys.stdout.flush()
    subprocess.run([sys.executable, *sys.argv], env={**os.environ, RETURNED: "1"}, check=True)


def attention(config, lengths: list[int], repeats: int) -> None:
    """The prompts' attention of one layer, both ways."""
    for name, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items():
        size, tokens = head_size(config), sum(lengths)
        queries = torch.randn(tokens, config.num_attention_heads, size).to(dtype)
        keys, values = torch.randn(2, tokens, config.num_key_value_heads, size).to(dtype)
        asked = (queries, keys, values, lengths, size**-0.5)
        ways = {"plain products": partial(attend_prompts, *asked), "fused kernel": partial(_padded, *asked)}
        in_turn({f"{name}, attention of a layer, {way}": attend for way, attend in ways.items()}, 5 * repeats)


def in_turn(sides: dict[str, Callable[[], object]], repeats: int) -> None:
    """Print the median wall and the median CPU seconds of each side."""
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, side in sides.items():
            start, spent = time.perf_counter(), time.process_time()
            side()
            if repeat:  # the first sets up
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - spent)
    for name in sides:
        print(f"| {name} | {statistics.median(wall[name]):.4f} | {statistics.median(cpu[name]):.4f} |")


if __name__ == "__main__":
    main()
