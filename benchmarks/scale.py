"""How seconds and memory grow with users, items, history, beams and thoughts, against the plan on paper.

    python benchmarks/scale.py [--layers=2] [--repeats=3] [--only users items ...] [--again] [--show]

Each curve is measured in a process of its own, on one thread, in CPU seconds, so that neighbours matter less: memory
first, by a cold run (the most the process held, less what it held before), then seconds, the median of ``repeats``. The
plan (``recbole_think/plan``) predicts the same points from nothing but sizes and what this core reaches: a product of
2,048 x 2,048 and a sum over half a gigabyte, float32, measured in turn with every point. Nothing is fitted. Curves that
were measured are kept, and a run that was cut off goes on; ``--again`` measures anew. Linux tells the memory. Some
minutes with AVX2. Writes benchmarks/results/scale.json and docs/scale.svg; ``--show`` prints and draws what was
measured before.
"""

import argparse
import ctypes
import json
import multiprocessing
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import RESULTS, keep, medians, options
from floor import SQUARE, STREAM_BYTES
from scale_picture import picture
from world import never_closed, random_codes, taught_backbone, word_prompts

from recbole_think.artifacts import write_text
from recbole_think.decoding.options import DecodeOptions
from recbole_think.decoding.trie import SidTrie
from recbole_think.itemic.quantize import Quantizer
from recbole_think.memory import keep_memory
from recbole_think.plan.assumptions import Assumptions
from recbole_think.plan.building import naming, trie_bytes
from recbole_think.plan.costs import Pace, Step
from recbole_think.plan.crowd import Crowd
from recbole_think.prompts.thinking import all_words
from recbole_think.ranker import Ranker

PICTURE = Path(__file__).parent.parent / "docs" / "scale.svg"
CURVES = {
    "users": (9, 18, 35, 70, 140),
    "items": (10_000, 100_000, 1_000_000, 3_000_000),
    "history": (10, 20, 50, 100, 200),
    "beams": (10, 20, 50, 100, 200),
    "thoughts": (1, 2, 4, 8, 16),
    "naming": (3_000, 10_000, 30_000, 100_000),
}
ITEMS = 10_000  # of the curves over something else
USERS = {"users": 0, "items": 16, "history": 8, "beams": 8, "thoughts": 4}  # of a point
BLOCK = 50_000  # items named at once
Point = dict[str, Any]


def main() -> None:
    """Measure the curves that are missing, print and write them."""
    given = arguments()
    path = RESULTS / "scale.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if given.show:
        if not known:
            raise SystemExit("nothing was measured yet")
        write_text(PICTURE, picture(known["curves"]))
        print(tables(known["curves"]))
        return
    torch.set_num_threads(1)
    setting = {name: getattr(given, name) for name in ("layers", "repeats")}
    curves: dict[str, list[Point]] = known["curves"] if known.get("setting") == setting else {}
    context = multiprocessing.get_context("spawn")
    for name in given.only:
        if name in curves and not given.again:
            continue
        with ProcessPoolExecutor(1, context) as pool:
            curves[name] = pool.submit(measured, name, given).result()
        ordered = {known: curves[known] for known in CURVES if known in curves}
        keep("scale", argparse.Namespace(**setting), curves=ordered)
        write_text(PICTURE, picture(ordered))
    print(tables({known: curves[known] for known in CURVES if known in curves}))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__, layers=2, repeats=3)
    parser.add_argument("--only", nargs="+", choices=list(CURVES), default=list(CURVES))
    parser.add_argument("--again", action="store_true", help="measure curves that were measured before")
    parser.add_argument("--show", action="store_true", help="print the tables of the last results")
    return parser.parse_args()


def measured(curve: str, given: argparse.Namespace) -> list[Point]:
    """All points of a curve, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if curve == "naming":
        return [naming_point(items, given.repeats) for items in CURVES[curve]]
    world = World(curve, given.layers)
    held = []
    for value in CURVES[curve]:
        work = world.work(value)
        held.append(peak_bytes(work))
    keep_memory()
    points = []
    for value, memory in zip(CURVES[curve], held, strict=True):
        spent, pace = clocked(world.work(value), given.repeats)
        foretold = predicted(world.crowd(value), curve == "thoughts", pace)
        trie = trie_point(value, given.repeats) if curve == "items" else {}
        points.append({"x": value, "seconds": spent, "memory_bytes": memory, **foretold, **trie, **vars(pace)})
        print(curve, value, f"{spent:.3g} s", flush=True)
    return points


class World:
    """Ranking for the users of every point of a curve, by one model."""

    def __init__(self, curve: str, layers: int):
        self.curve, self.layers = curve, layers
        self.model, self.vocabulary = taught_backbone(layers, random_codes(ITEMS, 4, 256))
        if curve == "thoughts":
            never_closed(self.model, self.vocabulary, word_prompts(4, 200, self.vocabulary.first))
        self.words = torch.from_numpy(all_words(self.vocabulary))

    def crowd(self, value: int) -> Crowd:
        """The plan of a point."""
        asked: dict[str, Any] = {"items": ITEMS, "users": USERS[self.curve], "history": 50, "beams": 20, "thoughts": 1}
        asked[self.curve] = value
        return Crowd(replace(Assumptions(layers=self.layers, gpu="cpu-avx2"), **asked))

    def work(self, value: int) -> Callable[[], Any]:
        """Ranking for all users of a point, once, set up."""
        given, how = self.crowd(value).given, decoding(self.crowd(value), self.curve == "thoughts")
        codes = random_codes(given.items, 4, 256)  # rows of the model are of the same codes, whatever the items
        ranker = Ranker(self.model, self.vocabulary, codes, given.history, self.words)
        dice = np.random.default_rng(0)
        prompts = ranker.prompts([dice.integers(1, ITEMS + 1, given.history) for _ in range(given.users)])
        ranker.rank(prompts[:1], lambda _: None, how, torch.float32)
        return lambda: ranker.rank(prompts, lambda _: None, how, torch.float32)


def decoding(crowd: Crowd, thinks: bool) -> DecodeOptions:
    """Options of lists as the plan has them."""
    given = crowd.given
    return DecodeOptions(
        thinks, given.thoughts, given.thought_tokens, thought_beams=given.prefixes, num_beams=given.beams
    )


def peak_bytes(work: Callable[[], Any]) -> int:
    """What some work holds at most, besides what was there before."""
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most held so far is forgotten
    work()
    return status("VmHWM") - before


def status(name: str) -> int:
    """Bytes of this process that Linux tells: VmRSS now, VmHWM the most."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def clocked(work: Callable[[], Any], repeats: int) -> tuple[float, Pace]:
    """Median CPU seconds of some work, and what this core reaches, in turn with it."""
    square, stream = torch.randn(SQUARE, SQUARE), torch.ones(STREAM_BYTES // 4)
    sides: dict[str, Callable[[], Any]] = {"work": work, "product": lambda: square @ square, "stream": stream.sum}
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            begin = time.process_time()
            side()
            found[name].append(time.process_time() - begin)
    middle = medians(found)
    return middle["work"], Pace(2 * SQUARE**3 / middle["product"], STREAM_BYTES / middle["stream"])


def trie_point(items: int, repeats: int) -> Point:
    """Building the trie of a catalogue, and its bytes."""
    table = torch.from_numpy(random_codes(items, 4, 256).table)
    spent, _ = clocked(lambda: SidTrie(table), repeats)
    return {"trie_s": spent, "trie_bytes": SidTrie(table).nbytes, "predicted_trie_bytes": trie_bytes(items, 256, 4)}


def predicted(crowd: Crowd, thinks: bool, pace: Pace) -> Point:
    """What the plan says of the same users, in the batches they are ranked in."""
    given, how = crowd.given, decoding(crowd, thinks)
    tokens = crowd.prompt + (given.thoughts * (given.thought_tokens + 2) if thinks else 0)
    together = max(1, how.tokens_per_batch // tokens)
    whole, rest = divmod(given.users, together)
    steps_of = crowd.thinking_online if thinks else lambda users: crowd.answering(users, kept=False)
    bytes_of = crowd.thinking_bytes if thinks else crowd.answering_bytes
    seconds = whole * pace.seconds(steps_of(together)) + (pace.seconds(steps_of(rest)) if rest else 0)
    return {"predicted_s": seconds, "predicted_bytes": bytes_of(min(together, given.users))}


def naming_point(items: int, repeats: int) -> Point:
    """Nearest centres of so many random vectors, block by block."""
    assumed = Assumptions(items=items)
    dice = np.random.default_rng(0)
    shape = (assumed.size, assumed.vector_size)
    quantizer = Quantizer([dice.standard_normal(shape, dtype=np.float32) for _ in range(assumed.levels)])
    vectors = dice.standard_normal((min(items, BLOCK), assumed.vector_size), dtype=np.float32)

    def work() -> None:
        for begin in range(0, items, BLOCK):
            quantizer.nearest(vectors[: items - begin])

    spent, pace = clocked(work, repeats)
    step = Step(*naming(items, assumed.vector_size, assumed.size, assumed.levels))
    return {"x": items, "seconds": spent, "predicted_s": pace.seconds([step]), **vars(pace)}


def tables(curves: dict[str, list[Point]]) -> str:
    """Every curve as Markdown."""
    said = []
    for name, points in curves.items():
        said += [
            f"| {name} | CPU seconds | predicted | ratio | memory, MB | predicted | ratio | GFLOP/s, GB/s |",
            "|---" * 8 + "|",
            *map(row, points),
            "",
        ]
        if name == "items":
            heads = ("items", "trie, CPU seconds", "trie, MB", "predicted", "bytes an item")
            said += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
            said += [
                f"| {one['x']:,} | {one['trie_s']:.3g} | {one['trie_bytes'] / 1e6:.2f} "
                f"| {one['predicted_trie_bytes'] / 1e6:.2f} | {one['trie_bytes'] / one['x']:.1f} |"
                for one in points
            ]
            said.append("")
    return "\n".join(said)


def row(one: Point) -> str:
    """A point as a line of its table."""
    cells = [f"{one['x']:,}", f"{one['seconds']:.3g}", f"{one['predicted_s']:.3g}",
             f"{one['seconds'] / one['predicted_s']:.2f} x"]  # fmt: skip
    if "memory_bytes" in one:
        have, said = one["memory_bytes"], one["predicted_bytes"]
        cells += [f"{have / 1e6:.0f}", f"{said / 1e6:.0f}", f"{have / said:.2f} x"]
    else:
        cells += ["", "", ""]
    cells.append(f"{one['flops_per_s'] / 1e9:.0f}, {one['bytes_per_s'] / 1e9:.1f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
