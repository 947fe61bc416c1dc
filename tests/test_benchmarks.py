"""Benchmarks are run by hand; what they import from the package must be there all the same."""

import subprocess
import sys
from pathlib import Path

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
