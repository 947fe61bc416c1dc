"""Try every model RecBole ships on the toy world, and write docs/models.md from what happened.

Run from the folder of the checkout:

    python -m tests.contract.survey                     # all models, about half an hour on one core
    python -m tests.contract.survey --only BPR DIN      # these again; the other rows of the page stay

Every model gets a process of its own and 60 seconds. It is first run with its default settings. If it fails, the
extra input it may need is added (``EXTRAS``), and the first thing that works is named in the table. A model "runs"
when ``run`` trains it for one epoch, ranks the whole catalogue for every user, and writes a record whose metrics are
finite.
"""

import argparse
import json
import logging
import math
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from recbole_think.catalog import CATALOG, recbole_names
from tests.toy import SMALL, settings, walks, write_toy

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"
SECONDS = 60
RECBOLE = Path(str((spec := find_spec("recbole")) and spec.origin)).parent
# RecBole has no model of these names
OURS = {"OneRecThink", "SASRecAll", "HSTU", "ReaRec", "TIGER", "CoOccurrence", "TextSimilarity"}
NAMES = sorted({*CATALOG, *recbole_names()} - OURS, key=str.lower)

FOLDERS = {
    "general_recommender": "general",
    "sequential_recommender": "sequential",
    "context_aware_recommender": "context-aware",
    "knowledge_aware_recommender": "knowledge-aware",
    "exlib_recommender": "decision tree",
}
GRAPH = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
NEGATIVE = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
ENTITIES = {
    "load_col": {**GRAPH, "ent": ["ent_id", "ent_emb"]},
    "additional_feat_suffix": ["ent"],
    "alias_of_item_id": ["ent_id"],
    "preload_weight": {"ent_id": "ent_emb"},
}
RELATIONS = {
    "load_col": {**GRAPH, "ent": ["ent_id", "ent_emb"], "rel": ["rel_id", "rel_emb"]},
    "additional_feat_suffix": ["ent", "rel"],
    "alias_of_item_id": ["ent_id"],
    "alias_of_relation_id": ["rel_id"],
    "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
}
FEWER_RANKED_AGAIN = {"`reranker_CAN_NUM=10` (its 100 are more than the toy catalogue)": {"reranker_CAN_NUM": 10}}
# what may be missing, by kind or by name of a model: what the table says of it, and the settings that supply it
EXTRAS: dict[str, dict[str, dict[str, Any]]] = {
    "sequential": {"item attributes (`load_col.item`)": {"load_col": {"item": ["item_id", "class"]}}},
    "context-aware": {
        "`train_neg_sample_args` (one sampled negative per event, as the label 0)": {"train_neg_sample_args": NEGATIVE}
    },
    "DGCF": {"`train_batch_size=128` (it samples more users than the toy world has)": {"train_batch_size": 128}},
    "GRU4RecCPR": FEWER_RANKED_AGAIN,
    "SASRecCPR": FEWER_RANKED_AGAIN,
    "GRU4RecKG": {"entity vectors (`.kg`, `.link`, `.ent`, `preload_weight`)": ENTITIES},
    "KSR": {"entity and relation vectors (`.kg`, `.link`, `.ent`, `.rel`, `preload_weight`)": RELATIONS},
}
# what lies behind an exception, where that is known
CAUSES = {
    "No module named 'lightgbm'": "RecBole imports it for either of its tree models; not installed",
    "No module named": "not a dependency of RecBole, and not installed",
    "'dok_matrix' object has no attribute '_update'": "RecBole calls a private method this scipy no longer has",
    "'KnowledgeBasedDataLoader' object has no attribute 'dataset'": "the runner expects a loader with a data set",
    "to have the same dtype, but got: float != double": "RecBole multiplies float32 by its float64 relation vectors",
}
# one short pass also through what a model does before its first epoch
FEW = {"pretrain_epochs": 1}
INTRO = """\
# Which of RecBole's models run

RecBole-Think trains and compares RecBole's models by their names. This page says which models of RecBole {recbole}
were seen to do so, with Python {python}, torch {torch}, numpy {numpy}, scipy {scipy} and pandas {pandas}: {yes} of
{all}. The models marked "tested" are held to the full contract by `tests/contract/test_models.py`.

"Runs" means: one epoch on a toy data set of {users} users on the CPU, a full ranking of the catalogue under both
maskings, and a complete record with finite metrics. It says nothing of how good a model is, nor of how long it takes
on real data. "Needs" names what was added to the default settings. Knowledge-aware models read a knowledge graph
(`.kg` and `.link` files) by default; the toy data set has one. Context-aware models learn from labels; here an event
counts as 1.

Models of ours that RecBole lacks (SASRecAll, HSTU, ReaRec, TIGER, two heuristics) are in `docs/rivals.md`.

The table is written by `python -m tests.contract.survey`; run it again after a change of versions.

| model | kind | runs | needs | why not |
|---|---|---|---|---|
"""


def main(argv: list[str]) -> int:
    """Survey all models, or those after ``--only``, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="MODEL")
    parser.add_argument("--trial", nargs=2, metavar=("MODEL", "FOLDER"), help="used by the survey itself")
    given = parser.parse_args(argv)
    if given.trial:
        trial(given.trial[0], Path(given.trial[1]))
        return 0
    rows = read_rows()
    with tempfile.TemporaryDirectory() as scratch:
        write_world(Path(scratch))
        for name in given.only:
            rows[name] = row_of(name, *survey(name, Path(scratch)))
            sys.stderr.write(rows[name])
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(rows), encoding="utf-8")
    return 0


def write_world(folder: Path) -> None:
    """The walking world, with a knowledge graph (which quarter a place lies in) and vectors of its entities."""
    write_toy(folder)
    places = sorted({place for visited in walks().values() for place in visited})
    vector = " ".join(["0.1"] * 64)
    files = {
        "link": ["item_id:token\tentity_id:token", *(f"{place}\te_{place}" for place in places)],
        "kg": [
            "head_id:token\trelation_id:token\ttail_id:token",
            *(f"e_{place}\tlies_in\tquarter_{number % 4}" for number, place in enumerate(places)),
            *(f"e_{place}\tnear\te_{places[number - 1]}" for number, place in enumerate(places)),
        ],
        "ent": ["ent_id:token\tent_emb:float_seq", *(f"{place}\t{vector}" for place in places)],
        "rel": ["rel_id:token\trel_emb:float_seq", *(f"{relation}\t{vector}" for relation in ("lies_in", "near"))],
    }
    for suffix, lines in files.items():
        (folder / "toy" / f"toy.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def survey(name: str, data: Path) -> tuple[str | None, str]:
    """Try one model in a process of its own; return what it needed (None when it never ran) and the last error."""
    outcome = data / f"{name}.json"
    command = [sys.executable, "-W", "ignore", "-m", "tests.contract.survey", "--trial", name, str(data)]
    died = ""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=SECONDS, text=True)
        if done.returncode:
            died = f"the process ended with code {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"
    except subprocess.TimeoutExpired:
        died = f"not finished after {SECONDS} s"
    tried = json.loads(outcome.read_text(encoding="utf-8")) if outcome.is_file() else []
    works = next((extra for extra, error in tried if not error), None)
    return works, died or next((error for _, error in reversed(tried) if error), "")


def trial(name: str, data: Path) -> None:
    """Run one model with nothing added, then with each extra until one works; keep what happened after each."""
    logging.disable(logging.CRITICAL)
    extras = EXTRAS.get(name) or EXTRAS.get(kind_of(name)) or {}
    tried: list[tuple[str, str]] = []
    for number, (extra, more) in enumerate([("", {}), *extras.items()]):
        tried.append((extra, attempt(name, data, data / f"{name}-{number}", more)))
        (data / f"{name}.json").write_text(json.dumps(tried), encoding="utf-8")
        if not tried[-1][1]:
            return


def attempt(name: str, data: Path, folder: Path, more: dict[str, Any]) -> str:
    """Run once; return what went wrong, or nothing."""
    from recbole_think.experiment import run

    file = RECBOLE / "properties" / "model" / f"{name}.yaml"
    own = yaml.safe_load(file.read_text(encoding="utf-8")) or {} if file.is_file() else {}
    few = {key: value for key, value in FEW.items() if key in own}
    options = settings("", data, folder, mask_history=True, **few) | {"epochs": 1} | more
    try:
        metrics = run(name, "toy", config_dict=options)["metrics"]
    except (Exception, SystemExit) as why:  # whatever it is, it goes into the table
        return f"{type(why).__name__}: {why}"
    if not all(math.isfinite(value) for value in metrics["test"].values()):
        return "its metrics are not finite"
    return ""


def kind_of(name: str) -> str:
    """Kind of a model, by the folder RecBole keeps it in."""
    return next(
        kind for folder, kind in FOLDERS.items() if (RECBOLE / "model" / folder / f"{name.lower()}.py").is_file()
    )


def row_of(name: str, works: str | None, error: str) -> str:
    """One line of the table."""
    shown = f"{name} (tested)" if name in SMALL else name
    reason = "" if works is not None else reason_of(error)
    return f"| {shown} | {kind_of(name)} | {'no' if works is None else 'yes'} | {works or ''} | {reason} |\n"


def reason_of(error: str) -> str:
    """The exception, cut to fit a table, and its cause where it is known."""
    text = " ".join(error.split()).replace("|", "/").replace("`", "'")
    cause = next((cause for part, cause in CAUSES.items() if part in text), "")
    text = text if len(text) <= 120 else f"{text[:117]}..."
    return f"`{text}`" + (f": {cause}" if cause else "")


def read_rows() -> dict[str, str]:
    """The lines of the page as it is, by model."""
    if not PAGE.is_file():
        return {}
    lines = re.finditer(r"^\| (\w+)(?: \(tested\))? \| .*\n", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {line[1]: line[0] for line in lines if line[1] in NAMES}


def page(rows: dict[str, str]) -> str:
    """The whole page."""
    found = {name: version(name) for name in ("recbole", "torch", "numpy", "scipy", "pandas")}
    python = ".".join(map(str, sys.version_info[:2]))
    yes = sum("| yes |" in line for line in rows.values())
    intro = INTRO.format(**found, python=python, yes=yes, all=len(rows), users=len(walks()))
    return intro + "".join(rows[name] for name in NAMES if name in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
