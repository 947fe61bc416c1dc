"""Full-ranking evaluation: users per second of ours against the loop of the official code's shape.

    python benchmarks/evaluation.py [--layers=2] [--users=256] [--peer_users=16] [--beams=10] [--repeats=3]

The peer reads four users at a time in the order of arrival, padded, through Hugging Face's generate with
``prefix_allowed_tokens_fn`` on a correct trie, same model, beams and precision; it is slow, so it reads a sample of the
users with the same spread of lengths. Ours ranks all users in length-sorted batches under a token budget. On a CPU the
peer may be slower in bfloat16, so the ratio to its faster precision is told as well. ml-100k's catalogue size, code
sizes and history lengths; --layers=0 = the whole backbone. Writes benchmarks/results/evaluation.json.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from bench import DTYPES, agreement, in_turn, keep, medians, options
from floor import ranking_seconds
from world import generated_lists, legal_tokens, plain, random_codes, taught_backbone

from recbole_think.decoding.options import DecodeOptions
from recbole_think.memory import keep_memory
from recbole_think.prompts.batching import token_batches
from recbole_think.ranker import Ranker

ITEMS, LEVELS, SIZE, MAX_HISTORY = 1682, 2, 64, 50
TOGETHER = 4  # users of a batch in the official code


def main() -> None:
    """Time both sides in both precisions."""
    keep_memory()
    given = options(__doc__, layers=2, users=256, peer_users=16, beams=10, repeats=3).parse_args()
    codes = random_codes(ITEMS, LEVELS, SIZE)
    model, vocabulary = taught_backbone(given.layers, codes)
    ranker = Ranker(model, vocabulary, codes, MAX_HISTORY, torch.empty(0, dtype=torch.int64))  # it says nothing
    legal = legal_tokens(vocabulary.item_tokens)
    prompts = ranker.prompts(histories(given.users))
    chosen = every_length([len(prompt) for prompt in prompts], given.peer_users)
    of_peer = [prompts[row] for row in chosen]
    settings = DecodeOptions(think=False, num_beams=given.beams, normalize="vocab")

    def official(peer: Any) -> list[list[int]]:
        groups = [of_peer[begin : begin + TOGETHER] for begin in range(0, len(of_peer), TOGETHER)]
        return [found for group in groups for found in generated_lists(peer, group, vocabulary, legal, given.beams)]

    cases: list[dict[str, Any]] = []
    for name, dtype in DTYPES.items():
        peer = plain(model).to(dtype)
        ranker.rank(prompts[:8], lambda _: None, settings, dtype)  # sets up
        sides = {
            "ours": partial(ranker.rank, prompts, lambda _: None, settings, dtype),
            "official": partial(official, peer),
        }
        seconds, lists = in_turn(sides, given.repeats)
        spent = medians(seconds)
        mine = [[item - 1 for item in lists["ours"][row]] for row in chosen]
        cases.append({
            "precision": name, "seconds": seconds,
            "users_per_second": {"ours": len(prompts) / spent["ours"], "official": len(of_peer) / spent["official"]},
            "floor": len(prompts) / floor_seconds(model.config, prompts, given.beams, dtype, settings, vocabulary),
            **agreement(mine, lists["official"]),
        })  # fmt: skip
    report(cases, len(chosen))
    tokens = {"ours": mean_length(prompts), "official": mean_length(of_peer)}
    print(f"tokens of a prompt: {tokens['ours']:.0f} ours, {tokens['official']:.0f} official shape")
    keep("evaluation", given, cases=cases, mean_tokens=tokens)


def report(cases: list[dict[str, Any]], users: int) -> None:
    """Print the table; bfloat16 stands beside the peer's faster precision as well."""
    fastest = max(case["users_per_second"]["official"] for case in cases)
    print(
        "| precision | ours, users/s | official shape | ratio | to its faster precision | floor over ours | identical |"
    )
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        ours, official = case["users_per_second"]["ours"], case["users_per_second"]["official"]
        case |= {"ratio": ours / official, "ratio_to_fastest": ours / fastest}
        print(f"| {case['precision']} | {ours:.1f} | {official:.2f} | {case['ratio']:.1f} x "
              f"| {case['ratio_to_fastest']:.1f} x | {case['floor'] / ours:.2f} x "
              f"| {case['identical_lists']} of {users} |")  # fmt: skip


def floor_seconds(config, prompts, beams: int, dtype: torch.dtype, settings: DecodeOptions, vocabulary) -> float:
    """Floor of all users, in the batches they are ranked in."""
    lengths = [len(prompt) for prompt in prompts]
    heads = [vocabulary.first + LEVELS * SIZE] * LEVELS
    batches = token_batches(lengths, settings.tokens_per_batch)
    return sum(ranking_seconds(config, [lengths[row] for row in rows], beams, heads, dtype) for rows in batches)


def every_length(lengths: list[int], count: int) -> list[int]:
    """Rows whose lengths are spread as those of all rows, in the order of arrival."""
    by_length = np.argsort(lengths, kind="stable")
    places = ((np.arange(count) + 0.5) * len(lengths) / count).astype(int)
    return np.sort(by_length[places]).tolist()


def mean_length(prompts: list[np.ndarray]) -> float:
    """Mean number of tokens."""
    return float(np.mean([len(prompt) for prompt in prompts]))


def histories(users: int) -> list[np.ndarray]:
    """Random items; half of the users have the longest history a prompt shows, as on ml-100k."""
    dice = np.random.default_rng(0)
    lengths = np.where(dice.random(users) < 0.5, MAX_HISTORY, dice.integers(5, MAX_HISTORY, users))
    return [dice.integers(1, ITEMS + 1, length) for length in lengths]


if __name__ == "__main__":
    main()
