"""Reading reviews: ours beside pandas' line reader, each in a process of its own, and ten million reviews in memory.

    python benchmarks/convert.py                     # a million reviews, both sides, three times
    python benchmarks/convert.py --reviews=10000000 --ours  # the whole command over ten million: its memory

Reviews are made here, in the format of Amazon 2014, with texts of 70 words on average.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

WORDS = (
    "this is great and I love it because my skin feels soft after using every day but it smells a bit strong".split()
)
SIDES = ("ours", "pandas")


def make(path: Path, reviews: int) -> None:
    """Write reviews: a user has five, an item twenty, on average."""
    dice = random.Random(0)
    texts = [" ".join(dice.choices(WORDS, k=5 + int(dice.expovariate(1 / 65)))) for _ in range(1000)]
    with path.open("w") as file:
        for _ in range(reviews):
            row = {
                "reviewerID": f"A{dice.randrange(reviews // 5):013X}", "asin": f"B{dice.randrange(reviews // 20):09X}",
                "reviewerName": "Some One", "helpful": [0, 1], "reviewText": dice.choice(texts),
                "overall": float(dice.randrange(1, 6)), "summary": "Nice",
                "unixReviewTime": 1300000000 + 86400 * dice.randrange(1500), "reviewTime": "01 30, 2014",
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")


def read(side: str, folder: Path) -> int:
    """Events of the file, by one of the sides."""
    # what a person writes who has no converter: the whole file as a table
    if side == "pandas":
        import pandas

        return len(pandas.read_json(folder / "reviews_Toy.json", lines=True))
    from recbole_think.corpus.convert.amazon import YEARS, events
    from recbole_think.corpus.convert.raw import Raw

    return len(events(Raw(folder, "Toy", show=False), YEARS["2014"]))


def whole(folder: Path) -> int:
    """Events the command itself keeps, from the raw file to atomic files."""
    from recbole_think.corpus.convert.__main__ import FIGURES, main

    if main(["amazon-2014", "--category=Toy", f"--raw={folder}", f"--out={folder}", "--quiet", "--replace"]):
        raise SystemExit(2)
    return json.loads((folder / "toy" / FIGURES).read_text())["events"]


def child(side: str, folder: Path) -> None:
    """Do it, and print seconds and the most memory held."""
    start = time.perf_counter()
    count = whole(folder) if side == "whole" else read(side, folder)
    seconds = time.perf_counter() - start
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stderr.write(json.dumps({"seconds": seconds, "mib": mib, "count": count}))


def measured(side: str, folder: Path) -> dict[str, float]:
    """A side in a process of its own."""
    words = [sys.executable, __file__, f"--child={side}", f"--folder={folder}"]
    done = subprocess.run(words, check=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    return json.loads(done.stderr.splitlines()[-1])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="the whole command alone, once")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.folder)
        return
    sides = ("whole",) if given.ours else SIDES
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "reviews_Toy.json", given.reviews)
        for _ in range(1 if given.ours else given.repeats):
            for side in sides:
                runs[side].append(measured(side, Path(folder)))
    found = {side: {name: median(run[name] for run in some) for name in some[0]} for side, some in runs.items()}
    for side, row in found.items():
        print(f"{side}: {row['count']:,.0f} reviews, {row['seconds']:.1f} s, {row['mib']:,.0f} MiB at most")
    if not given.ours:
        ours, theirs = (found[side] for side in SIDES)
        faster, smaller = theirs["seconds"] / ours["seconds"], theirs["mib"] / ours["mib"]
        print(f"{faster:.1f} times as fast in 1 / {smaller:.1f} of the memory")
    from bench import keep  # here, since it brings torch, which no child needs

    setting = {"reviews": given.reviews, "repeats": given.repeats}
    name = f"convert{'-whole' if given.ours else ''}"
    keep(name, argparse.Namespace(**setting), sides=found, runs=runs)


if __name__ == "__main__":
    main()
