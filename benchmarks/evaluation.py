"""Full-ranking evaluation: users per second of ours against the loop of the official code's shape.

    python benchmarks/evaluation.py [--layers=2] [--users=256] [--peer_users=16] [--beams=10] [--repeats=3]

The peer reads four users at a time in the order of arrival, padded, through Hugging Face's generate with
``prefix_allowed_tokens_fn`` on a correct trie, same model, beams and precision. Ours ranks all users in length-sorted
batches under a token budget. ml-100k's catalogue size, code sizes and history lengths; --layers=0 = the whole backbone.
Writes benchmarks/results/evaluation.json.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from world import generated_lists, legal_tokens, plain, random_codes, taught_backbone, threads

from recbole_think.artifacts import versions, write_json
from recbole_think.decoding.options import DecodeOptions
from recbole_think.memory import keep_memory
from recbole_think.ranker import Ranker
from recbole_think.record import hardware

ITEMS, LEVELS, SIZE, MAX_HISTORY = 1682, 2, 64, 50
TOGETHER = 4  # users of a batch in the official code
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    """Time both sides in both precisions."""
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"layers": 2, "users": 256, "peer_users": 16, "beams": 10, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    codes = random_codes(ITEMS, LEVELS, SIZE)
    model, vocabulary = taught_backbone(given.layers, codes)
    ranker, legal = Ranker(model, vocabulary, codes, MAX_HISTORY), legal_tokens(vocabulary.item_tokens)
    prompts = ranker.prompts(histories(given.users))
    options = DecodeOptions(num_beams=given.beams, normalize="vocab")
    print("| precision | ours, users/s | official shape, users/s | ratio | identical lists |\n|---|---|---|---|---|")
    cases = []
    for name, dtype in DTYPES.items():
        peer = plain(model).to(dtype)
        rates: dict[str, list[float]] = {"ours": [], "official": []}
        ranker.rank(prompts[:8], lambda _: None, options, dtype)  # sets up
        for _ in range(given.repeats):
            start = time.perf_counter()
            mine = ranker.rank(prompts, lambda _: None, options, dtype)
            rates["ours"].append(len(prompts) / (time.perf_counter() - start))
            start = time.perf_counter()
            theirs: list[Any] = []
            for begin in range(0, given.peer_users, TOGETHER):
                theirs += generated_lists(peer, prompts[begin : begin + TOGETHER], vocabulary, legal, given.beams)
            rates["official"].append(given.peer_users / (time.perf_counter() - start))
        same = sum([item - 1 for item in one] == other for one, other in zip(mine, theirs, strict=False))
        medians = {side: statistics.median(values) for side, values in rates.items()}
        ratio = medians["ours"] / medians["official"]
        cases.append({"precision": name, "users_per_second": rates, "ratio": ratio, "identical_lists": same})
        print(f"| {name} | {medians['ours']:.1f} | {medians['official']:.2f} | {ratio:.1f} x "
              f"| {same} of {given.peer_users} |", flush=True)  # fmt: skip
    record = {"setting": vars(given), "cases": cases, **threads(), "hardware": hardware(), "versions": versions()}
    write_json(Path(__file__).parent / "results" / "evaluation.json", record)


def histories(users: int) -> list[np.ndarray]:
    """Random items; half of the users have the longest history a prompt shows, as on ml-100k."""
    dice = np.random.default_rng(0)
    lengths = np.where(dice.random(users) < 0.5, MAX_HISTORY, dice.integers(5, MAX_HISTORY, users))
    return [dice.integers(1, ITEMS + 1, length) for length in lengths]


if __name__ == "__main__":
    main()
