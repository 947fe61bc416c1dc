"""Full-ranking evaluation: users per second of ours against the loop of the official code's shape.

    python benchmarks/evaluation.py [--layers=2] [--users=256] [--peer_users=16] [--beams=10] [--repeats=3]

The peer reads four users at a time in the order of arrival, padded, through Hugging Face's generate with
``prefix_allowed_tokens_fn`` on a correct trie, same model, beams and precision; it is slow, so it reads a sample of the
users with the same spread of lengths. Ours ranks all users in length-sorted batches under a token budget. On a CPU the
peer may be slower in bfloat16, so the ratio to its faster precision is told as well. ml-100k's catalogue size, code
sizes and history lengths; --layers=0 = the whole backbone. Writes benchmarks/results/evaluation.json.
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
    chosen = every_length([len(prompt) for prompt in prompts], given.peer_users)
    of_peer = [prompts[row] for row in chosen]
    options = DecodeOptions(num_beams=given.beams, normalize="vocab")
    print("| precision | ours, users/s | official shape, users/s | ratio | identical lists |\n|---|---|---|---|---|")
    cases: list[dict[str, Any]] = []
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
            for begin in range(0, len(of_peer), TOGETHER):
                theirs += generated_lists(peer, of_peer[begin : begin + TOGETHER], vocabulary, legal, given.beams)
            rates["official"].append(len(of_peer) / (time.perf_counter() - start))
        same = sum([item - 1 for item in mine[row]] == other for row, other in zip(chosen, theirs, strict=True))
        medians = {side: statistics.median(values) for side, values in rates.items()}
        ratio = medians["ours"] / medians["official"]
        cases.append({"precision": name, "users_per_second": rates, "ratio": ratio, "identical_lists": same})
        print(f"| {name} | {medians['ours']:.1f} | {medians['official']:.2f} | {ratio:.1f} x "
              f"| {same} of {len(chosen)} |", flush=True)  # fmt: skip
    tokens = {"ours": mean_length(prompts), "official": mean_length(of_peer)}
    fastest = max(statistics.median(case["users_per_second"]["official"]) for case in cases)
    for case in cases:
        case["ratio_to_fastest"] = statistics.median(case["users_per_second"]["ours"]) / fastest
        print(f"{case['precision']} over the official shape in its faster precision: {case['ratio_to_fastest']:.1f} x")
    print(f"tokens of a prompt: {tokens['ours']:.0f} ours, {tokens['official']:.0f} official shape")
    record = {
        "setting": vars(given),
        "mean_tokens": tokens,
        "cases": cases,
        **threads(),
        "hardware": hardware(),
        "versions": versions(),
    }
    write_json(Path(__file__).parent / "results" / "evaluation.json", record)


def every_length(lengths: list[int], count: int) -> list[int]:
    """Rows whose lengths are spread as those of all rows, in the order of arrival."""
    by_length = np.argsort(lengths, kind="stable")
    places = ((np.arange(count) + 0.5) * len(lengths) / count).astype(int)
    return np.sort(by_length[places]).tolist()


def mean_length(prompts: list[np.ndarray]) -> float:
    """Mean number of tokens."""
    return statistics.mean(len(prompt) for prompt in prompts)


def histories(users: int) -> list[np.ndarray]:
    """Random items; half of the users have the longest history a prompt shows, as on ml-100k."""
    dice = np.random.default_rng(0)
    lengths = np.where(dice.random(users) < 0.5, MAX_HISTORY, dice.integers(5, MAX_HISTORY, users))
    return [dice.integers(1, ITEMS + 1, length) for length in lengths]


if __name__ == "__main__":
    main()
