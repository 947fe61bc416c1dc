"""Every model a user may pass as --model, and the trainer that fits it.

Ours and the tested dozen are listed one by one; any other RecBole model is found through the names of RecBole's
own property files, so that an unknown name is an error here and never a wrong default inside RecBole
(its ``get_model`` ends in an import of lightgbm, its ``get_trainer`` in the plain ``Trainer``).
Paths are strings so that listing the catalog imports nothing heavy.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recbole_think.errors import InputError
from recbole_think.paths import properties_dir

GENERAL = "recbole.model.general_recommender"
SEQUENTIAL = "recbole.model.sequential_recommender"
PLAIN = "recbole.trainer:Trainer"
TRADITIONAL = "recbole.trainer:TraditionalTrainer"
WINDOWS = "recbole_think.rivals.windows:WindowTrainer"


@dataclass(frozen=True)
class Entry:
    """Where a model and its trainer live, as ``package.module:Class`` paths."""

    model: str
    trainer: str


CATALOG = {
    "OneRecThink": Entry("recbole_think.model:OneRecThink", "recbole_think.trainer:ThinkTrainer"),
    "Pop": Entry("recbole_think.rivals.popularity:Pop", TRADITIONAL),
    "CoOccurrence": Entry("recbole_think.rivals.heuristics:CoOccurrence", TRADITIONAL),
    "TextSimilarity": Entry("recbole_think.rivals.heuristics:TextSimilarity", TRADITIONAL),
    "Random": Entry(f"{GENERAL}:Random", TRADITIONAL),
    "ItemKNN": Entry(f"{GENERAL}:ItemKNN", TRADITIONAL),
    "BPR": Entry(f"{GENERAL}:BPR", PLAIN),
    "GRU4Rec": Entry(f"{SEQUENTIAL}:GRU4Rec", PLAIN),
    "NARM": Entry(f"{SEQUENTIAL}:NARM", PLAIN),
    "SASRec": Entry(f"{SEQUENTIAL}:SASRec", PLAIN),
    "SASRecAll": Entry("recbole_think.rivals.sasrec:SASRecAll", WINDOWS),
    "HSTU": Entry("recbole_think.rivals.hstu:HSTU", WINDOWS),
    "ReaRec": Entry("recbole_think.rivals.rearec:ReaRec", WINDOWS),
    "TIGER": Entry("recbole_think.rivals.tiger:TIGER", "recbole_think.rivals.rows:RowTrainer"),
    "BERT4Rec": Entry(f"{SEQUENTIAL}:BERT4Rec", PLAIN),
    "HGN": Entry(f"{SEQUENTIAL}:HGN", PLAIN),
    "LightSANs": Entry(f"{SEQUENTIAL}:LightSANs", PLAIN),
    "FEARec": Entry(f"{SEQUENTIAL}:FEARec", PLAIN),
    "S3Rec": Entry(f"{SEQUENTIAL}:S3Rec", "recbole_think.rivals.pretraining:PretrainingTrainer"),
}


def recbole_names() -> list[str]:
    """Names of the other models RecBole ships, read from its property files without importing it."""
    spec = find_spec("recbole")
    if spec is None or spec.origin is None:
        raise InputError("RecBole is not installed: pip install recbole==1.2.1")
    folder = Path(spec.origin).parent / "properties" / "model"
    return sorted({path.stem for path in folder.glob("*.yaml")} - set(CATALOG))


def recipes() -> list[str]:
    """Names of the settings that ship for a model besides its defaults, such as ``OneRecThink-qwen3-1.7b``."""
    names = (path.stem for path in (properties_dir() / "model").glob("*-*.yaml"))
    return sorted(name for name in names if name.partition("-")[0] in CATALOG)


def recipe(name: str) -> dict[str, Any]:
    """Settings of a recipe; none for any other name."""
    import yaml

    path = properties_dir() / "model" / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if name in recipes() else {}


def family(name: str) -> str:
    """The model that a recipe is of; any other name is its own."""
    return name.partition("-")[0] if name in recipes() else name


def lookup(name: str) -> Entry:
    """Return the entry for ``name``, a model's or a recipe's.

    Raises:
        InputError: the name is unknown; the message names the closest known one.
    """
    if family(name) in CATALOG:
        return CATALOG[family(name)]
    others = recbole_names()
    if name in others:
        return _recbole_entry(name)
    spelt = {known.lower(): known for known in [*others, *CATALOG, *recipes()]}
    near = [spelt[low] for low in get_close_matches(name.lower(), spelt, n=1)]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown model {name!r}.{hint} Known: {', '.join(CATALOG)}; --list shows RecBole's others.")


def load(path: str) -> type:
    """Import the class behind a ``module:Class`` path.

    RecBole's ``sine.py`` turns on autograd's search for anomalies for the whole process when its package is imported,
    which made training six times slower; the setting of before is put back.
    """
    import torch

    module, _, name = path.partition(":")
    searching = torch.is_anomaly_enabled()
    try:
        return getattr(import_module(module), name)
    finally:
        torch.autograd.set_detect_anomaly(searching)


def _recbole_entry(name: str) -> Entry:
    """Ask RecBole itself where one of its own models and its trainer are."""
    from recbole.utils import get_model, get_trainer

    try:
        model = get_model(name)
        trainer = get_trainer(model.type, name)
    except (ImportError, ValueError) as why:
        raise InputError(f"RecBole cannot load {name} here: {why}; see docs/models.md") from why
    return Entry(f"{model.__module__}:{model.__name__}", f"{trainer.__module__}:{trainer.__name__}")
