"""What thinking costs: thoughts before a list against its twin without, and a batch of GRPO against TRL's own way.

    python benchmarks/thinking.py [--layers 2 0] [--users=16] [--prompts=8] [--deep_prompts=2] [--repeats=3]
        [--precisions float32 bfloat16] [--only=lists|batch] [--show]

Lists: ``thoughts`` thoughts of exactly ``thought_tokens`` tokens with ``thought_beams`` beams each, against as many
beams without a thought (target: at most 4 times the twin; the official code: 17.5). Batch: a step of GRPO, ``prompts``
x ``rationales`` x ``beams``, in parts, over its roofline (target: 4) and against TRL's trainer with its own generate
and one call of constrained generate for each rationale (target: 6 times ours). Where more than ``shallow`` layers are
measured (0 = all 30) a batch has ``deep_prompts`` prompts. Writes benchmarks/results/thinking-<layers>.json; ``--show``
prints the tables of what was written before, and measures nothing.
"""

import argparse
import json
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from bench import DTYPES, RESULTS, agreement, in_turn, keep, medians, options
from enhancing import PARTS, Problem, both_sides, drawn_prompts, learning, roofline, same_beams
from floor import beam_steps, prompt_step, roofline_seconds, sampling_steps
from world import FIRST_WORD, never_closed, random_codes, taught_backbone, word_prompts

from recbole_think.decoding.options import DecodeOptions
from recbole_think.decoding.precision import lowered
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.memory import keep_memory
from recbole_think.prompts.thinking import all_words
from recbole_think.ranker import Ranker
from recbole_think.stages.progress import quiet
from recbole_think.stages.reinforcement import EnhancementOptions

LEVELS, SIZE = 4, 256
WORDS = 300  # besides the codes: about what rationales made of categories say


def main() -> None:
    """Measure what was asked for, print and write it; or print what was written."""
    given = arguments()
    if given.show:
        for path in sorted(RESULTS.glob("thinking-*.json")):
            print(f"{path.name}\n\n{tables(json.loads(path.read_text(encoding='utf-8')))}\n")
        return
    keep_memory()
    warnings.simplefilter("ignore", FutureWarning)  # of names transformers will change
    for layers in given.layers:
        outcome: dict[str, list[dict[str, Any]]] = {"lists": [], "batch": []}
        codes = random_codes(given.items, LEVELS, SIZE)
        model, vocabulary = taught_backbone(layers, codes)
        prompts = word_prompts(given.users, given.tokens, vocabulary.first)
        never_closed(model, vocabulary, prompts)
        for precision in given.precisions:
            if given.only in ("", "lists"):
                for words in ("few", "all"):
                    outcome["lists"].append(lists_case(given, model, vocabulary, codes, prompts, words, precision))
            if given.only in ("", "batch"):
                outcome["batch"].append(batch_case(given, model, vocabulary, codes, precision))
            print(tables({**outcome, "setting": vars(given)}), flush=True)
        keep(f"thinking-{layers}", given, **outcome)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(
        __doc__, users=16, tokens=200, items=12101, thoughts=4, thought_tokens=32, thought_beams=10, prompts=8,
        deep_prompts=2, shallow=4, rationales=8, beams=16, passes=1, repeats=3,
    )  # fmt: skip
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 0])
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--only", default="", choices=("", "lists", "batch"))
    parser.add_argument("--show", action="store_true", help="print the tables of the last results")
    return parser.parse_args()


def said_words(vocabulary: Vocabulary, which: str) -> np.ndarray:
    """Tokens a thought is made of: all, or a few hundred words and the codes; the closing mark in any case."""
    if which == "all":
        return all_words(vocabulary)
    words = np.random.default_rng(3).choice(np.arange(FIRST_WORD, vocabulary.first), WORDS, replace=False)
    codes = torch.cat(vocabulary.code_tokens).numpy()
    return np.unique(np.concatenate([words, codes, [vocabulary.marks[1]]]))


def lists_case(
    given: argparse.Namespace, model: Any, vocabulary: Vocabulary, codes: Codes, prompts: list[np.ndarray],
    which: str, precision: str,
) -> dict[str, Any]:  # fmt: skip
    """Lists after thinking, and of the twin without."""
    words, dtype = said_words(vocabulary, which), DTYPES[precision]
    ranker = Ranker(lowered(model, dtype), vocabulary, codes, given.tokens, torch.from_numpy(words))
    how = DecodeOptions(
        True, given.thoughts, given.thought_tokens, thought_beams=given.thought_beams,
        num_beams=given.thoughts * given.thought_beams,
    )  # fmt: skip

    def ranked(think: bool) -> list[list[int]]:
        # weights are in their precision already
        return ranker.rank(prompts, lambda _: None, replace(how, think=think), torch.float32)

    thoughts = [
        [one.ids for one in of_user] for of_user in ranker.think(prompts, lambda _: None, how, torch.float32)
    ]  # sets up, too
    again = ranker.rank_after(prompts, thoughts, lambda _: None, how, torch.float32)
    ranked(False)
    seconds, found = in_turn({"thinking": lambda: ranked(True), "twin": lambda: ranked(False)}, given.repeats)
    middle = medians(seconds)
    lengths = [len(ids) for of_user in thoughts for ids in of_user]
    return {
        "layers": model.config.num_hidden_layers, "words": len(words), "precision": precision, "seconds": seconds,
        "medians": middle, "ratio": middle["thinking"] / middle["twin"],
        "roofline": lists_roofline(model.config, [len(ids) for ids in prompts], how, len(words), dtype),
        "thought_tokens": {"min": min(lengths), "mean": float(np.mean(lengths)), "max": max(lengths)},
        "read_again": agreement(found["thinking"], again),
    }  # fmt: skip


def lists_roofline(
    config: Any, lengths: list[int], how: DecodeOptions, words: int, dtype: torch.dtype
) -> dict[str, float]:
    """Least seconds of both sides; the softmax of a code is over its level."""
    users, mean, said, heads = len(lengths), round(np.mean(lengths)), how.thought_tokens + 1, [SIZE] * LEVELS
    thinking = sampling_steps(config, [length + 1 for length in lengths], how.thoughts, said, words)
    thinking += beam_steps(config, users * how.thoughts, how.thought_beams, mean + said, heads)
    twin = [prompt_step(config, lengths), *beam_steps(config, users, how.num_beams, mean, heads)]
    return {"thinking": roofline_seconds(thinking, dtype), "twin": roofline_seconds(twin, dtype)}


def batch_case(
    given: argparse.Namespace, model: Any, vocabulary: Vocabulary, codes: Codes, precision: str
) -> dict[str, Any]:
    """A step of GRPO by both sides."""
    deep = model.config.num_hidden_layers > given.shallow
    count = given.deep_prompts if deep else given.prompts
    settings = EnhancementOptions(
        prompts=count, rationales=given.rationales, beams=given.beams, passes=given.passes, precision=precision,
        learning_rate=0.0, validations=1, checkpoints=0, held_out=0,
    )  # fmt: skip
    problem = Problem(
        model, vocabulary, codes, said_words(vocabulary, "few"), given.thought_tokens, settings,
        drawn_prompts(vocabulary, codes, count, given.tokens),
    )  # fmt: skip
    same = same_beams(problem)
    with quiet(), both_sides(problem) as (ours, stock), learning(problem):
        _, parts = in_turn({"ours": ours, "stock": stock}, given.repeats)
        told = {"ours": ours.tokens, "stock": stock.tokens}
    model.eval()
    middle = {side: medians({part: [one[part] for one in of] for part in PARTS}) for side, of in parts.items()}
    floor = roofline(problem)
    return {
        "layers": model.config.num_hidden_layers, "prompts": count, "precision": precision, "seconds": parts,
        "medians": middle, "ratio": middle["stock"]["whole"] / middle["ours"]["whole"], "roofline": floor,
        "over_roofline": {part: middle["ours"][part] / floor[part] for part in PARTS}, "same_beams": same,
        "rationale_tokens": told, "dialect": problem.dialect.pad, "prompt_tokens": [len(ids) for ids in problem.ids],
    }  # fmt: skip


def tables(outcome: dict[str, Any]) -> str:
    """Everything that was measured, as Markdown."""
    setting, said = outcome["setting"], []
    if outcome["lists"]:
        thoughts, each = setting["thoughts"], setting["thought_beams"]
        said += [
            f"Lists, {setting['users']} users, {thoughts} thoughts x {each} beams against {thoughts * each} beams:", "",
            "| layers | words | precision | tokens of a thought | thinking, s | twin, s | ratio (target 4) |"
            " thinking over its roofline | twin over its roofline | same lists when thoughts are read again |",
            "|---" * 10 + "|", *map(lists_row, outcome["lists"]), "",
        ]  # fmt: skip
    if outcome["batch"]:
        said += [
            f"One batch, {setting['rationales']} rationales a prompt, {setting['beams']} beams each; seconds of rollout"
            " + reward + update:", "",
            "| layers | prompts | precision | ours | TRL's own | ratio (target 6) | roofline |"
            " of an update that reads prompts anew | ours over the roofline (target 4) | of the parts |"
            " tokens of a rationale, ours and TRL's | same beams, overlap |",
            "|---" * 12 + "|", *map(batch_row, outcome["batch"]), "",
        ]  # fmt: skip
    return "\n".join(said)


def lists_row(case: dict[str, Any]) -> str:
    """One line of the first table."""
    middle, floor, tokens, again = case["medians"], case["roofline"], case["thought_tokens"], case["read_again"]
    cells = (
        case["layers"], case["words"], case["precision"], span(tokens["min"], tokens["max"]),
        f"{middle['thinking']:.2f}", f"{middle['twin']:.2f}", f"{case['ratio']:.2f} x",
        f"{middle['thinking'] / floor['thinking']:.2f} x", f"{middle['twin'] / floor['twin']:.2f} x",
        f"{again['identical_lists']} ({again['overlap']:.3f})",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def batch_row(case: dict[str, Any]) -> str:
    """One line of the second table."""
    over, told, same = case["over_roofline"], case["rationale_tokens"], case["same_beams"]
    cells = (
        case["layers"], case["prompts"], case["precision"], in_parts(case["medians"]["ours"]),
        in_parts(case["medians"]["stock"]), f"{case['ratio']:.1f} x", in_parts(case["roofline"]),
        f"{case['roofline']['update_anew']:.2f}",
        f"{over['whole']:.2f} x", ", ".join(f"{over[part]:.1f}" for part in PARTS[:-1]),
        f"{span(min(told['ours']), max(told['ours']))}, {span(min(told['stock']), max(told['stock']))}",
        f"{same['identical_lists']} of {same['compared']}, {same['overlap']:.3f}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def in_parts(seconds: dict[str, float]) -> str:
    """Seconds of a batch and of its parts."""
    return f"{seconds['whole']:.2f} = {' + '.join(f'{seconds[part]:.2f}' for part in PARTS[:-1])}"


def span(least: float, most: float) -> str:
    """A number, or two that differ."""
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"


if __name__ == "__main__":
    main()
