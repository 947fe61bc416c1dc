"""Constrained beam search against Hugging Face's generate with prefix_allowed_tokens_fn, and against its floor.

    python benchmarks/decoding.py [--layers=0] [--users=16] [--tokens=200] [--items=12101] [--beams 10 50] [--repeats=3]

Same weights, prompts (of unequal length), catalogue and beams on both sides, both in this process, in turn, in float32
and in bfloat16. The figures to quote are ratios: generate over ours, and ours over the floor (floor.py). Generate takes
minutes at 50 beams: the whole takes 25. Writes benchmarks/results/decoding.json.
"""

from collections.abc import Callable
from typing import Any

import torch
from bench import DTYPES, agreement, in_turn, keep, medians, options
from floor import ranking_seconds
from world import generated_lists, legal_tokens, plain, random_codes, taught_backbone, word_prompts

from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.trie import SidTrie
from recbole_think.memory import keep_memory
from recbole_think.prompts.batching import prompt_batch

LEVELS, SIZE = 4, 256
PEER_SEQUENCES = 200  # of generate at a time: 16 users x 50 beams x 240 positions would take more than 20 GiB


def main() -> None:
    """Time both sides in every case and write the table."""
    keep_memory()
    parser = options(__doc__, layers=0, users=16, tokens=200, items=12101, repeats=3)
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    given = parser.parse_args()
    codes = random_codes(given.items, LEVELS, SIZE)
    model, vocabulary = taught_backbone(given.layers, codes)
    prompts = word_prompts(given.users, given.tokens, vocabulary.first)
    trie, legal = SidTrie(torch.from_numpy(codes.table)), legal_tokens(vocabulary.item_tokens)
    ids, mask = prompt_batch(prompts, vocabulary.tokenizer.pad_token_id)
    heads = [vocabulary.first + LEVELS * SIZE] * LEVELS
    print("| case | ours, s | generate, s | ratio | floor, s | over floor | identical lists | overlap |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
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
            sides["ours"]()  # sets up
            seconds, lists = in_turn(sides, given.repeats)
            floor = ranking_seconds(model.config, [len(prompt) for prompt in prompts], beams, heads, dtype)
            cases.append({"precision": name, "beams": beams, "seconds": seconds, "medians": medians(seconds),
                          "floor": floor, **agreement(lists["ours"], lists["generate"])})  # fmt: skip
            print(row(cases[-1]), flush=True)
    keep("decoding", given, cases=cases)


def theirs(peer: Any, prompts: list, vocabulary: Any, legal: dict, beams: int) -> list[list[int]]:
    """Rank with generate, as many users at a time as it has memory for: it copies every prompt for every beam."""
    together = max(1, PEER_SEQUENCES // beams)
    groups = [prompts[begin : begin + together] for begin in range(0, len(prompts), together)]
    return [ranked for group in groups for ranked in generated_lists(peer, group, vocabulary, legal, beams)]


def row(case: dict[str, Any]) -> str:
    """One line of the table."""
    ours, generate = case["medians"]["ours"], case["medians"]["generate"]
    cells = (
        f"{case['precision']}, {case['beams']} beams", f"{ours:.2f}", f"{generate:.1f}", f"{generate / ours:.1f} x",
        f"{case['floor']:.2f}", f"{ours / case['floor']:.2f} x", str(case["identical_lists"]), f"{case['overlap']:.3f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
