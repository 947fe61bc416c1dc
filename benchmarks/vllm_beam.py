"""Step-wise trie beams on vLLM's CPU engine against ours: same weights, prompts, catalogue, beams and precision.

    python benchmarks/vllm_beam.py --vllm_python=PATH [--layers=0] [--users=16] [--precisions bfloat16 float32]

vLLM lives in an environment of its own (docs/performance.md) and this command starts it, once a precision. Its
beam search takes no trie, so beams are made level by level: one ``generate`` call for the beams of all users, one new
token each, ``allowed_token_ids`` from the trie and prefix caching on. Both sides rank by log-softmax over the whole
vocabulary: ``logprobs_mode=raw_logprobs`` gives that, ``logprob_token_ids`` names the legal codes (at most 128 a
request, so the 256 codes of level 1 take two calls). Writes benchmarks/results/vllm_beam.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

LEVELS, SIZE = 4, 256
NAMED = 128  # log-probabilities vLLM gives for named tokens of one request
SETTINGS = {  # one process: engine and worker of their own poll on the cores that compute
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1",
}  # fmt: skip


def main() -> None:
    """Run both sides, or the other environment's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm_python", help="python of the environment that has vllm-cpu")
    for name, value in {"layers": 0, "users": 16, "tokens": 200, "items": 12101, "beams": 10, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--block_size", type=int, default=32, help="positions shared whole by vLLM's prefix cache")
    parser.add_argument("--precisions", nargs="+", choices=["bfloat16", "float32"], default=["bfloat16", "float32"])
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # set for the other side
    given = parser.parse_args()
    if given.folder:
        vllm_side(Path(given.folder), given.precisions[0])
    elif given.vllm_python and has_vllm(given.vllm_python):
        both_sides(given)
    else:
        parser.error(f"--vllm_python={given.vllm_python} finds no vllm: see docs/performance.md")


def has_vllm(python: str) -> bool:
    """Tell whether that python finds vLLM, wherever this command stands."""
    try:
        command = [python, "-c", "import vllm.version"]
        return not subprocess.run(command, capture_output=True, env=environment()).returncode
    except OSError:
        return False


def environment() -> dict[str, str]:
    """Variables vLLM is started with: ours unless set outside; our own packages stay out of its sight."""
    return SETTINGS | {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def timed(work: Callable[[], Any], repeats: int) -> tuple[Any, list[float]]:
    """What ``work`` gives and the seconds of each repeat, after one that sets up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - start)
    return found, seconds[1:]


def both_sides(given: argparse.Namespace) -> None:
    """Export the model; in each precision time ours here, then vLLM there; compare and record."""
    import torch
    from bench import keep
    from floor import ranking_seconds
    from world import plain, random_codes, taught_backbone, word_prompts

    from recbole_think.decoding.beam import beam_search
    from recbole_think.decoding.precision import lowered
    from recbole_think.decoding.trie import SidTrie
    from recbole_think.memory import keep_memory
    from recbole_think.prompts.batching import prompt_batch

    keep_memory()
    codes = random_codes(given.items, LEVELS, SIZE)
    model, vocabulary = taught_backbone(given.layers, codes)
    with torch.no_grad():  # what bfloat16 can hold: in either precision both sides have the same weights
        for value in model.parameters():
            value.copy_(value.to(torch.bfloat16))
    prompts = word_prompts(given.users, given.tokens, vocabulary.first)
    ids, mask = prompt_batch(prompts, vocabulary.tokenizer.pad_token_id)
    trie = SidTrie(torch.from_numpy(codes.table))
    cases, theirs = [], {}
    heads = "ours, s | vLLM, s | ratio | ours, users/s | vLLM, users/s | legal | overlap | start-up, s | floor, s"
    print(f"| precision | {heads} |")
    print("|---" * 10 + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        plain(model).to(torch.bfloat16).save_pretrained(folder)
        vocabulary.tokenizer.save_pretrained(folder)
        tables = {"prompts": [prompt.tolist() for prompt in prompts], "item_tokens": vocabulary.item_tokens.tolist()}
        Path(folder, "world.json").write_text(json.dumps({**vars(given), **tables}), encoding="utf-8")
        for precision in given.precisions:
            low = lowered(model, getattr(torch, precision))
            search = partial(beam_search, low, ids, mask, trie, vocabulary.code_tokens, given.beams, "vocab")
            found, seconds = timed(search, given.repeats)
            theirs = ask_vllm(given, folder, precision)
            rows = [vocabulary.first + LEVELS * SIZE] * LEVELS
            floor = ranking_seconds(model.config, list(map(len, prompts)), given.beams, rows, getattr(torch, precision))
            cases.append({**compare(precision, found.items.tolist(), seconds, theirs), "floor": floor})
            print(row(cases[-1]), flush=True)
    settings = {name: environment()[name] for name in SETTINGS}
    given.vllm_python = None  # a path of this machine
    keep("vllm_beam", given, cases=cases, normalize="vocab", vllm_settings=settings, vllm_versions=theirs["versions"])


def ask_vllm(given: argparse.Namespace, folder: str, precision: str) -> dict[str, Any]:
    """Run this file in the other environment and read what it found."""
    command = [given.vllm_python, str(Path(__file__).resolve()), f"--folder={folder}", f"--precisions={precision}"]
    if status := subprocess.run(command, cwd=folder, env=environment()).returncode:
        raise SystemExit(f"the vLLM side ended with status {status} in {precision}; what it said is above")
    return json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))


def compare(precision: str, lists: list[list[int]], seconds: list[float], theirs: dict[str, Any]) -> dict[str, Any]:
    """Seconds of both sides and how far their lists agree."""
    pairs = list(zip(lists, theirs["lists"], strict=True))
    sides = {"ours": seconds, "vllm": theirs["seconds"]}
    medians = {name: statistics.median(values) for name, values in sides.items()}
    return {
        "precision": precision, "seconds": sides, "medians": medians, "ratio": medians["vllm"] / medians["ours"],
        "users_per_second": {name: len(lists) / value for name, value in medians.items()},
        "vllm_start_s": theirs["start_s"], "vllm_legal": theirs["legal"],
        "overlap": statistics.mean(len(set(one) & set(other)) / len(one) for one, other in pairs),
        "identical_lists": sum(one == other for one, other in pairs),
    }  # fmt: skip


def row(case: dict[str, Any]) -> str:
    """One line of the table."""
    numbers = [*case["medians"].values(), case["ratio"], *case["users_per_second"].values()]
    numbers += [case["vllm_legal"], case["overlap"], case["vllm_start_s"], case["floor"]]
    return f"| {case['precision']} | {' | '.join(f'{number:.2f}' for number in numbers)} |"


def vllm_side(folder: Path, precision: str) -> None:
    """Everything that runs in vLLM's environment."""
    from vllm import LLM

    world = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    start = time.perf_counter()
    engine = LLM(
        str(folder), dtype=precision, enforce_eager=True, seed=0, logprobs_mode="raw_logprobs",
        enable_prefix_caching=True, block_size=world["block_size"],
        max_model_len=max(map(len, world["prompts"])) + LEVELS,
    )  # fmt: skip
    start_s = time.perf_counter() - start
    item_of = {tuple(tokens): item for item, tokens in enumerate(world["item_tokens"])}
    follows: dict[tuple[int, ...], set[int]] = {}
    for tokens in item_of:
        for depth in range(LEVELS):
            follows.setdefault(tokens[:depth], set()).add(tokens[depth])
    legal = {said: sorted(tokens) for said, tokens in follows.items()}

    def ranked() -> list[list[tuple[int, ...]]]:
        engine.reset_prefix_cache()  # every repeat reads the prompts anew
        return beams(engine, world["prompts"], legal, world["beams"])

    found, seconds = timed(ranked, world["repeats"])
    lists = [[item_of.get(said, -1) for said in user] for user in found]
    outcome = {
        "lists": lists, "seconds": seconds, "start_s": start_s,
        "legal": statistics.mean(item >= 0 for user in lists for item in user),
        "versions": {name: version(name) for name in ("vllm-cpu", "torch", "transformers")},
    }  # fmt: skip
    (folder / "found.json").write_text(json.dumps(outcome), encoding="utf-8")


def beams(engine: Any, prompts: list[list[int]], legal: dict, count: int) -> list[list[tuple[int, ...]]]:
    """The ``count`` most likely items of every user, as tuples of tokens, level by level."""
    from vllm import SamplingParams

    one_token = partial(SamplingParams, max_tokens=1, temperature=0, detokenize=False)
    live: list[list[tuple[float, tuple[int, ...]]]] = [[(0.0, ())] for _ in prompts]
    for _ in range(LEVELS):
        asked = [(user, score, said) for user, held in enumerate(live) for score, said in held]
        live = [[] for _ in prompts]
        for first in range(0, max(len(legal[said]) for _, _, said in asked), NAMED):
            part = [(*beam, legal[beam[2]][first : first + NAMED]) for beam in asked if len(legal[beam[2]]) > first]
            asks = [{"prompt_token_ids": [*prompts[user], *said]} for user, _, said, _ in part]
            how = [one_token(allowed_token_ids=codes, logprob_token_ids=codes) for *_, codes in part]
            outputs = engine.generate(asks, how, use_tqdm=False)
            for (user, score, said, codes), output in zip(part, outputs, strict=True):
                gained = output.outputs[0].logprobs[0]
                live[user] += [(score + gained[code].logprob, (*said, code)) for code in codes]
        live = [sorted(held, reverse=True)[:count] for held in live]
    return [[said for _, said in held] for held in live]


if __name__ == "__main__":
    main()
