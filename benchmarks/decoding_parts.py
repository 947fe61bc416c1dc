"""What each technique of decoding gains alone, and what memory a search takes: python benchmarks/decoding_parts.py

    [--layers=0] [--users=16] [--tokens=200] [--beams=10] [--repeats=3]

Packed prompts through the layers' own modules against the model's own forward pass with a tree mask; a layer read at
the ends of prompts alone against a whole one; plain products against the fused kernel in the prompt's attention; memory
kept in the process against memory given back; the peak memory of a search as beams grow, beside generate's. Writes
benchmarks/results/decoding_parts.json.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import DTYPES, in_turn, keep, medians, options
from floor import head_size
from world import generated_lists, legal_tokens, plain, random_codes, taught_backbone, word_prompts

from recbole_think.decoding.attention import _padded, attend_prompts
from recbole_think.decoding.beam import Search, beam_search, search
from recbole_think.decoding.masked import MaskedReader
from recbole_think.decoding.packed import PackedReader
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.trie import SidTrie
from recbole_think.memory import keep_memory
from recbole_think.prompts.batching import prompt_batch

ITEMS, LEVELS, SIZE = 12_101, 4, 256
ALONE = "BENCH_ALONE"  # names what a process of its own measures
BEAMS = (10, 50, 200)  # of the memory table; generate's own ends at the first
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def main() -> None:
    """Time every pair in turn, then what needs a process of its own."""
    given = options(__doc__, layers=0, users=16, tokens=200, beams=10, repeats=3).parse_args()
    codes = random_codes(ITEMS, LEVELS, SIZE)
    model, vocabulary = taught_backbone(given.layers, codes)
    prompts = word_prompts(given.users, given.tokens, vocabulary.first)
    ids, mask = prompt_batch(prompts, vocabulary.tokenizer.pad_token_id)
    trie = SidTrie(torch.from_numpy(codes.table))

    def beams(taught: Any, kind: type) -> Callable[[], Any]:
        def work() -> None:
            reader = kind(taught)
            hidden, at = reader.prompts(ids, mask)
            search(Search(taught, reader, trie, vocabulary.code_tokens, "vocab"), hidden, at, given.beams)

        return work

    with torch.no_grad():
        if ALONE in os.environ:
            kind, count = os.environ[ALONE].split()
            searches: dict[str, Callable[[], Any]] = {
                "ours": partial(beam_search, model, ids, mask, trie, vocabulary.code_tokens, int(count)),
                "generate": lambda: generated_lists(
                    plain(model), prompts, vocabulary, legal_tokens(vocabulary.item_tokens), int(count)
                ),
                "seconds": beams(lowered(model, torch.bfloat16), PackedReader),
            }
            alone = searches[kind]
            outcome = timed({kind: alone}, given.repeats)[kind] if kind == "seconds" else peak_mib(alone)
            sys.stdout.write(json.dumps(outcome))
            return
        keep_memory()
        found: dict[str, dict[str, float]] = {}
        for name, dtype in DTYPES.items():
            taught = lowered(model, dtype)
            ways = {"packed": beams(taught, PackedReader), "the model's forward pass": beams(taught, MaskedReader)}
            found[f"beams, {name}"] = timed(ways, given.repeats)
            found[f"prefill, {name}"] = prefills(taught, ids, mask, given.repeats)
            found[f"attention of a layer, {name}"] = attention(
                model.config, list(map(len, prompts)), dtype, given.repeats
            )
    found["beams, bfloat16"]["packed, memory given back"] = by_itself(f"seconds {given.beams}")
    asked = [*(f"ours {count}" for count in BEAMS), f"generate {BEAMS[0]}"]
    memory = {what: by_itself(what) for what in asked}
    for title, sides in {**found, "peak MiB above the loaded model, by beams": memory}.items():
        print(f"{title}: " + "; ".join(f"{name} {value:.4g}" for name, value in sides.items()))
    keep("decoding_parts", given, seconds=found, peak_mib=memory)


def timed(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of sides that take turns, after one round that sets up."""
    in_turn(sides, 1)
    return medians(in_turn(sides, repeats)[0])


def prefills(taught: Any, ids: torch.Tensor, mask: torch.Tensor, repeats: int) -> dict[str, float]:
    """Seconds of reading prompts by one to three layers: what a whole layer adds, and what a last one takes."""

    def reading(layers: int) -> Callable[[], Any]:
        reader = PackedReader(taught)
        reader.layers = taught.get_decoder().layers[:layers]
        return partial(reader.prompts, ids, mask)

    found = timed({str(layers): reading(layers) for layers in (1, 2, 3)}, 3 * repeats)
    return {"a whole layer adds": found["3"] - found["2"], "one layer, the last": found["1"]}


def attention(config: Any, lengths: list[int], dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """The prompts' attention of one layer, both ways."""
    size, tokens = head_size(config), sum(lengths)
    queries = torch.randn(tokens, config.num_attention_heads, size).to(dtype)
    keys, values = torch.randn(2, tokens, config.num_key_value_heads, size).to(dtype)
    asked = (queries, keys, values, lengths, size**-0.5)
    ways = {"plain products": partial(attend_prompts, *asked), "fused kernel": partial(_padded, *asked)}
    return timed(ways, 5 * repeats)


def by_itself(what: str) -> float:
    """Have a process of its own, which gives memory back, measure the peak of one search."""
    settings = {**os.environ, ALONE: what, **GIVEN_BACK}
    done = subprocess.run([sys.executable, *sys.argv], env=settings, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def peak_mib(work: Callable[[], Any]) -> float:
    """Most memory a call takes above what the process holds before it; the median of three (Linux)."""
    found = []
    for _ in range(3):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew from here
        before = _status("VmRSS")
        work()
        found.append((_status("VmHWM") - before) / 1024)
    return statistics.median(found)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
