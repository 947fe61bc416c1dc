import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("setup.py", "pyproject.toml", "README.md", "recbole_think", "properties", "baselines")

LOOK = """
import sys
from pathlib import Path
target = Path(sys.argv[1]).resolve()
import recbole_think
assert Path(recbole_think.__file__).resolve().is_relative_to(target), recbole_think.__file__
from recbole_think.cli import main
assert main(["--list"]) == 0
assert main(["--help", "--model=OneRecThink"]) == 0
from recbole_think.paths import properties_dir, results_dir
assert properties_dir().resolve().is_relative_to(target), properties_dir()
assert results_dir().resolve().is_relative_to(target) and list(results_dir().glob("*.csv")), results_dir()
from recbole_think.config import ThinkConfig
assert ThinkConfig("OneRecThink", "ml-100k")["decode"]["num_beams"]
"""


def run(*words, cwd):
    done = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy, since building writes beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source / part)
    run(
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(out),
        ".",
        cwd=source,
    )
    [made] = out.glob("*.whl")
    return made


def test_the_wheel_carries_every_module_yaml_and_committed_result(wheel):
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
        entry_points = next(
            packed.read(name).decode() for name in packed.namelist() if name.endswith("entry_points.txt")
        )
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recbole_think").rglob("*.py")}
    for folder, pattern in (("properties", "*.yaml"), *(("baselines", p) for p in ("*.py", "*.yaml", "*.csv"))):
        found = {f"recbole_think/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob(pattern)}
        assert found
        wanted |= found
    ranks = (ROOT / "baselines" / "results").rglob("*.safetensors")
    wanted |= {f"recbole_think/{path.relative_to(ROOT).as_posix()}" for path in ranks}
    page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recbole_think" / "page").iterdir()}
    assert len(page) == 5
    wanted |= page
    assert names == wanted, "everything, and nothing else"
    assert "recbole-think" in entry_points


def test_the_installed_wheel_works_far_from_the_checkout(wheel, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(
        "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(target),
        str(wheel), cwd=elsewhere,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(target)], cwd=elsewhere, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(target)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "OneRecThink" in done.stdout and "ml-100k" in done.stdout and "num_beams" in done.stdout
