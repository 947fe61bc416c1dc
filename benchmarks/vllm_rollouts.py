"""Rationales of reasoning enhancement drawn by us and by vLLM in the same process, of the same policy.

    <environment with vLLM>/bin/python benchmarks/vllm_rollouts.py [--layers=2] [--prompts=8] [--rationales=8]
        [--thought_tokens=12] [--steps=6]

Both sides run the stage with a learning rate of 0, so that every step draws from the same policy and mean rewards of
the two may differ by chance alone. Two layers of SmolLM2-135M, a catalogue and prompts of the size of ml-100k's, random
codes, 300 random words. The first step of each side sets up and is left out of the times. ``rollout`` holds, of vLLM's
side, drawing and reading what was drawn. What to set for vLLM on a CPU is in docs/rollouts.md.
Writes benchmarks/results/vllm-rollouts.json.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import keep, options
from enhancing import Planned, Problem, drawn_prompts
from world import FIRST_WORD, random_codes, taught_backbone

from recbole_think.memory import keep_memory
from recbole_think.stages.progress import quiet
from recbole_think.stages.reinforcement import EnhancementOptions
from recbole_think.stages.rewards import RewardOptions

LEVELS, SIZE, WORDS = 2, 64, 300
SOFTER = 0.05  # of the last norm: two layers cut out of thirty are sure of one word, and draws would all be the same
SIDES = {"ours": "", "vllm": "colocated"}


def main() -> None:
    """Measure, print and write."""
    given = arguments()
    keep_memory()
    codes = random_codes(given.items, LEVELS, SIZE)
    model, vocabulary = taught_backbone(given.layers, codes)
    with torch.no_grad():
        model.get_decoder().norm.weight.mul_(SOFTER)
    words = np.random.default_rng(3).choice(np.arange(FIRST_WORD, vocabulary.first), WORDS, replace=False)
    settings = EnhancementOptions(
        steps=given.steps, prompts=given.prompts, rationales=given.rationales, beams=given.beams, learning_rate=0.0,
        precision="float32", validations=1, checkpoints=0, held_out=0,
    )  # fmt: skip
    problem = Problem(
        model, vocabulary, codes, np.unique([*words, vocabulary.marks[1]]), given.thought_tokens, settings,
        drawn_prompts(vocabulary, codes, given.prompts, given.tokens),
    )  # fmt: skip
    found = {side: told(problem, engine) for side, engine in SIDES.items()}
    for side, figures in found.items():
        print(side, figures)
    [name, *_] = packages_distributions()["vllm"]
    keep("vllm-rollouts", given, sides=found, engine={"distribution": name, "version": version(name)})


def arguments() -> argparse.Namespace:
    """Read the command line."""
    return options(
        __doc__, layers=2, items=1682, tokens=100, prompts=8, rationales=8, beams=16, thought_tokens=12, steps=6
    ).parse_args()


def told(problem: Problem, engine: str) -> dict[str, Any]:
    """Run the stage once and say what its steps told."""
    rewards = RewardOptions(position=1.0, likelihood=1.0)
    stage = Planned(replace(problem.options, vllm=engine), rewards, problem.thinking, lambda *_: lambda _: {})
    stage.prompts = problem.prompts
    with tempfile.TemporaryDirectory() as folder, quiet():
        outcome = stage.run(problem.context(Path(folder)))
    rows = [row for row in outcome.curve if "reward" in row]
    thoughts = problem.options.prompts * problem.options.group
    rewarded = [row["reward"] for row in rows]
    middle = {
        name: statistics.median(row[name] for row in rows[1:])
        for name in ("rollout_seconds", "reward_seconds", "step_seconds", "rationale_tokens", "entropy")
    }
    told = [name for name in ("engine_ratio", "engine_difference") if name in rows[0]]
    return {
        **middle,
        "thoughts_per_second": thoughts / middle["rollout_seconds"],
        "reward": statistics.mean(rewarded),
        "reward_error": statistics.stdev(rewarded) / len(rewarded) ** 0.5,
        "first_step_seconds": rows[0]["step_seconds"],
        **{name: [row[name] for row in rows] for name in told},
    }


if __name__ == "__main__":
    main()
