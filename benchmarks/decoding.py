"""Constrained beam search against Hugging Face's generate with prefix_allowed_tokens_fn, same model, trie and lists.

    python benchmarks/decoding.py [--layers=2] [--users=16] [--items=1682] [--beams=10] [--repeats=3]

Prints a table and writes benchmarks/results/decoding.json. Both sides run in this process, in turn, in float32; the
figure to quote is the ratio.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from recbole_think.artifacts import versions, write_json
from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.trie import SidTrie
from recbole_think.folder import cache_dir
from recbole_think.itemic.backbone import load_backbone
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.options import BackboneOptions
from recbole_think.itemic.vocabulary import extend_tokenizer, teach_vocabulary
from recbole_think.record import hardware


def main() -> None:
    """Time both sides and write the table."""
    given = arguments()
    model, vocabulary, codes = world(given)
    trie = SidTrie(torch.from_numpy(codes.table))
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(100, vocabulary.first, (given.users, given.tokens), generator=generator)
    sides = {
        "ours": lambda: ours(model, prompts, trie, vocabulary, given.beams),
        "generate": lambda: theirs(model, prompts, vocabulary, given.beams),
    }
    lists = {name: side() for name, side in sides.items()}  # also the warm-up
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(given.repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    report(given, lists, seconds)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"layers": 2, "users": 16, "items": 1682, "beams": 10, "repeats": 3, "tokens": 128}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--backbone", default="smollm2-135m")
    return parser.parse_args()


def world(given: argparse.Namespace):
    """A backbone that knows random codes of the asked number of items."""
    generator = np.random.default_rng(0)
    flat = generator.choice(64**3, given.items, replace=False)
    codes = Codes(np.stack([flat // 4096, flat // 64 % 64, flat % 64], axis=1).astype(np.int64), (64,) * 3)
    model, tokenizer = load_backbone(BackboneOptions(given.backbone, given.layers), cache_dir(None), ["some words"])
    vocabulary = extend_tokenizer(tokenizer, codes)
    teach_vocabulary(model, vocabulary, codes, ["some words"] * given.items)
    with torch.no_grad():
        model.get_input_embeddings().rows.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return model.eval(), vocabulary, codes


def ours(model, prompts, trie, vocabulary, beams: int) -> list[list[int]]:
    """Rank with this package."""
    found = beam_search(model, prompts, torch.ones_like(prompts), trie, vocabulary.code_tokens, beams, "vocab")
    return found.items.tolist()


def theirs(model, prompts, vocabulary, beams: int) -> list[list[int]]:
    """Rank with generate and a dictionary of prefixes, the usual way to do it right."""
    allowed: dict[tuple, list[int]] = {}
    item_of = {}
    for item, tokens in enumerate(vocabulary.item_tokens.tolist()):
        item_of[tuple(tokens)] = item
        for depth, token in enumerate(tokens):
            allowed.setdefault(tuple(tokens[:depth]), []).append(token)
    allowed = {prefix: sorted(set(tokens)) for prefix, tokens in allowed.items()}
    length, levels = prompts.shape[1], vocabulary.item_tokens.shape[1]
    with torch.no_grad():
        out = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), num_beams=beams, num_return_sequences=beams,
            max_new_tokens=levels, min_new_tokens=levels, do_sample=False, length_penalty=0.0,
            prefix_allowed_tokens_fn=lambda _, ids: allowed[tuple(ids[length:].tolist())],
        )  # fmt: skip
    return [[item_of[tuple(row)] for row in user] for user in out[:, length:].view(len(prompts), beams, -1).tolist()]


def report(given, lists, seconds) -> None:
    """Print and write the outcome."""
    same = sum(a == b for a, b in zip(lists["ours"], lists["generate"], strict=True))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["generate"] / medians["ours"]
    print(
        f"{given.users} users x {given.tokens} tokens, {given.items} items, {given.beams} beams, {given.layers} layers"
    )
    for name, value in medians.items():
        print(f"{name:<10}{value:>9.3f} s   min {min(seconds[name]):.3f}  max {max(seconds[name]):.3f}")
    print(f"ratio {ratio:.1f} x, identical lists for {same} of {given.users} users")
    outcome = {"setting": vars(given), "seconds": seconds, "ratio": ratio, "identical_lists": same}
    path = Path(__file__).parent / "results" / "decoding.json"
    write_json(path, {**outcome, "hardware": hardware(), "versions": versions()})


if __name__ == "__main__":
    main()
