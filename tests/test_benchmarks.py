"""Benchmarks are run by hand; what they import from the package must be there all the same."""

import importlib
import math
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_think.artifacts import write_json

FOLDER = Path(__file__).parent.parent / "benchmarks"
CODE = (
    "import importlib, sys; sys.path.insert(0, sys.argv[1]); [importlib.import_module(name) for name in sys.argv[2:]]"
)


def test_every_benchmark_can_be_imported(tmp_path):
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    command = [sys.executable, "-c", CODE, str(FOLDER), *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(names) > 10


def test_make_bench_names_files_that_are_there():
    lines = (FOLDER.parent / "Makefile").read_text(encoding="utf-8").splitlines()
    named = [line.split("benchmarks/")[1].split()[0] for line in lines if "benchmarks/" in line]
    assert named and all((FOLDER / name).is_file() for name in named)


def finished(folder, ranks):
    """A run folder, as far as the ladder reads it: test ranks of the users (0 = not in the list)."""
    folder.mkdir()
    rows = [f"{user}\t{rank}\t{rank}\t5\t1" for user, rank in enumerate(ranks)]
    header = "user_id\trank\trank_other_masking\thistory_length\ttarget_count"
    (folder / "ranks.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    ndcg = sum(1 / math.log2(rank + 1) for rank in ranks if 0 < rank <= 10) / len(ranks)
    told = {"test": {"ndcg@10": ndcg}, "seconds": {"fit": 60.0}, "commit": "abc", "hardware": {}, "versions": {}}
    write_json(folder / "metrics.json", told)
    return folder


def test_a_rung_of_the_ladder_is_compared_with_the_one_below_user_by_user_over_all_seeds(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    bench = importlib.import_module("ladder")
    below = [finished(tmp_path / f"plain-{seed}", ranks) for seed, ranks in enumerate([[1, 0, 11, 3], [0, 0, 1, 3]])]
    above = [finished(tmp_path / f"aligned-{seed}", ranks) for seed, ranks in enumerate([[1, 1, 0, 3], [1, 0, 1, 3]])]
    found = bench.ladder({"plain": [*map(bench.read, below)], "aligned": [*map(bench.read, above)]})
    assert found["plain"]["of_seeds"] == pytest.approx([1.5 / 4, 1.5 / 4])
    assert found["plain"]["test"] == pytest.approx({"ndcg@10": 1.5 / 4, "recall@10": 2 / 4})
    assert found["plain"]["standard_error_of_seeds"] == pytest.approx(0)
    step = found["aligned"]["over_row_before"]
    assert step["ndcg@10"]["mean"] == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)  # of users, each the mean of two seeds
    assert step["ndcg@10"]["low"] >= 0 and step["recall@10"]["mean"] == pytest.approx(1 / 4)
    assert ".3750" in bench.table(found) and "+0.2500" in bench.table(found)
