"""One experiment on one page: configuration, data, model, trainer, evaluation, record.

(Not called run.py, since a module of that name would hide the function that ``from recbole_think import run`` means.)

Replaces ``recbole.quick_start`` (which looks models up by RecBole's names, deep-copies them to count FLOPs,
imports ray, and cannot reload its checkpoints on torch >= 2.6) without touching RecBole.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

from recbole_think import catalog, folder, processes, reasoning, record, report, resume
from recbole_think.artifacts import read_json
from recbole_think.config import ThinkConfig
from recbole_think.corpus.files import require_dataset
from recbole_think.corpus.histories import Histories, begun, fingerprint, repeated_share, targets, training_histories
from recbole_think.corpus.parts import keep_latest, of_rows
from recbole_think.errors import InputError
from recbole_think.evaluation import Scores, ThinkCollector, evaluate, release_own_mask, set_mask
from recbole_think.fetch import addresses, fetch
from recbole_think.stages.precision import choose

log = logging.getLogger(__name__)
AMP_SHAPE = (128, 512)  # of the product bfloat16 is tried on: the models enable_amp is for are small
POPULARITY = "Pop"  # the row every run is shown beside
# what decides the data and the evaluation, whatever the model
SHARED = {
    "data_path", "seed", "mask_history", "eval_args", "metrics", "topk", "valid_metric", "valid_metric_bigger",
    "benchmark_filename", "cache_dir", "show_progress", "metric_decimal_place", "reproducibility", "gpu_id", "use_gpu",
}  # fmt: skip


@dataclass
class Data:
    """RecBole's three loaders, the whole training histories, and what may be masked when."""

    train: Any
    valid: Any
    test: Any
    histories: Histories  # training events
    until_valid: Histories  # what came before validation: masked there
    until_test: Histories  # plus the validation events: masked at test
    repeated: float  # share of test targets the user already met
    fingerprint: str


def run(
    model: str,
    dataset: str,
    config_files: Sequence[str] = (),
    config_dict: Mapping[str, Any] | None = None,
    argv: Sequence[str] = (),
    restart: bool = False,
) -> dict[str, Any]:
    """Fit ``model`` on ``dataset``, evaluate it by full ranking, and keep the record in a run folder.

    The same call finds its run folder again: a finished one is read back, an interrupted one goes on. Either way
    ``report.html`` lies in it afterwards.

    Args:
        model: a name of the catalog (``--list``).
        dataset: a name of ``properties/dataset``, or a folder of atomic files under ``data_path``.
        config_files: YAML files, later ones win.
        config_dict: settings from Python; nested blocks as dicts.
        argv: ``--key=value`` words, as on the command line.
        restart: empty the run folder first.

    Returns:
        RecBole's keys (``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, ``test_result``), then
        ``run_folder``, ``metrics`` (the content of ``metrics.json``) and ``popularity`` (the same of a live Pop row).

    Raises:
        InputError: something asked for cannot be done.
    """
    with processes.joined():
        config = ThinkConfig(model, dataset, config_files, config_dict, argv)
        if processes.number():
            config["show_progress"] = config["log_wandb"] = False  # the first one tells, for all
        result, fresh = _result(config, restart)
        page = Path(result["run_folder"]) / report.NAME
        with processes.first_alone() as mine:
            if mine and (fresh or not page.is_file()):
                report.write_report(page.parent)
    return result


def _result(config: ThinkConfig, restart: bool = False) -> tuple[dict[str, Any], bool]:
    """What ``run`` returns, and whether the experiment was made just now rather than read back."""
    chosen = folder.choose(config.final_config_dict)
    require_inputs(config, taught=not restart and (chosen / "metrics.json").is_file())
    config["run_folder"], config["cache_dir"] = str(chosen), str(folder.cache_dir(config["cache_dir"]))
    config["checkpoint_dir"] = str(chosen / "checkpoints")
    with folder.opened(chosen, config.final_config_dict, restart):
        fresh = not Path("metrics.json").is_file()
        if fresh:
            _experiment(config)
        else:
            log.info("already finished; reading %s (--restart runs it again)", chosen / "metrics.json")
        metrics = read_json(Path("metrics.json"))
        with processes.first_alone() as mine:
            popularity = _popularity(config, chosen) if mine and config["model"] != POPULARITY else None
    result = {
        "best_valid_score": metrics["valid"][config["valid_metric"].lower()],
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": metrics["valid"],
        "test_result": metrics["test"],
        "run_folder": str(chosen),
        "metrics": metrics,
        "popularity": popularity,
    }
    return result, fresh


def _popularity(config: ThinkConfig, chosen: Path) -> dict[str, Any]:
    """Metrics of the popularity row on the same split and masking, kept in ``<run folder>/pop``."""
    settings = {**shared_settings(config), "run_folder": str(chosen / "pop"), "show_progress": False}
    return _result(ThinkConfig(POPULARITY, config["dataset"], config_dict=settings))[0]["metrics"]


def shared_settings(config: ThinkConfig) -> dict[str, Any]:
    """Return what the user set about data and evaluation, to give a second model the same; paths are absolute."""
    dataset_keys = set(config.parameters["Dataset"]) - {"MAX_ITEM_LIST_LENGTH"}
    given = {key: value for key, value in config.external_config_dict.items() if key in SHARED | dataset_keys}
    given["data_path"] = str(Path(config["data_path"]).parent)
    return {**given, "cache_dir": str(config["cache_dir"])} if config["cache_dir"] else given


def require_inputs(config: ThinkConfig, taught: bool = False) -> None:
    """Check everything that can be known before data is loaded, so that nothing is half-written.

    Args:
        config: of the experiment.
        taught: nothing is to be trained any more, so what only training reads may be gone.

    Raises:
        InputError: something asked for cannot be done.
    """
    if processes.count() > 1 and not getattr(config.model_class, "MANY_PROCESSES", False):
        raise InputError(
            f"{config['model']} is trained by one process, and {processes.count()} were launched; start it with python"
        )
    if config["log_wandb"] and find_spec("wandb") is None:
        raise InputError("log_wandb: true needs Weights & Biases: pip install wandb")
    names = [f"{metric}@{k}".lower() for metric in config["metrics"] for k in config["topk"]]
    if config["valid_metric"].lower() not in names:
        raise InputError(f"valid_metric={config['valid_metric']!r} is not among metrics x topk: {', '.join(names)}")
    require_dataset(
        Path(config["data_path"]),
        config["dataset"],
        config["load_col"]["inter"],
        sorted(addresses()),
        config["benchmark_filename"] or (),
    )
    for name in ("require_inputs", *(() if taught else ("require_sources",))):
        check = getattr(config.model_class, name, None)
        if check:
            check(config)


def prepare(config: ThinkConfig) -> Data:
    """Load and split the data set with RecBole, and take the histories all masks are made of."""
    place, name = Path(config["data_path"]), config["dataset"]
    with processes.first_alone() as mine:
        if mine and not place.is_dir() and name in addresses():
            fetch(place, name)
    try:
        dataset = create_dataset(config)
        if of_rows(config):
            keep_latest(dataset)
        train, valid, test = data_preparation(config, dataset)
    except (OSError, ValueError) as why:  # RecBole's own words for data it cannot use
        raise InputError(f"data set {name!r} cannot be used: {' '.join(str(why).split())}") from why
    for loader in (valid, test):
        release_own_mask(loader)
    dataset = training_data(train)
    histories = training_histories(dataset)
    until_valid = begun(histories, valid.dataset)
    until_test = begun(until_valid.extended(*targets(valid.dataset)), test.dataset)
    users, items = (dataset.field2id_token[field] for field in (dataset.uid_field, dataset.iid_field))
    made_of = fingerprint(histories, targets(valid.dataset), targets(test.dataset), users=users, items=items)
    repeated = repeated_share(until_test, *targets(test.dataset))
    return Data(train, valid, test, histories, until_valid, until_test, repeated, made_of)


def training_data(loader):
    """Return the data set behind a training loader; RecBole's knowledge-aware loader keeps it one level down."""
    return getattr(loader, "general_dataloader", loader).dataset


def _experiment(config: ThinkConfig) -> None:
    """Fit, ending with the checkpoint validation chose, evaluate under both maskings, write the record."""
    clock = record.Clock()
    init_seed(config["seed"], config["reproducibility"])
    _settle_amp(config)
    with clock("data"):
        data = prepare(config)
        config["data_fingerprint"] = data.fingerprint
    with clock("model"):
        recommender = config.model_class(config, training_data(data.train)).to(config["device"])
        trainer = catalog.load(catalog.lookup(config["model"]).trainer)(config, recommender)
    trainer.eval_collector = ThinkCollector(config)
    set_mask(trainer, data.until_valid if config["mask_history"] else None)
    progress = bool(config["show_progress"])
    with clock("fit"):
        before = resume.fit_once(trainer, data, progress)
    clock.add("fit", before)
    made_from = {"weights": resume.weights_digest(trainer.model), "data_fingerprint": data.fingerprint}
    scores = _evaluate_all(trainer, data, made_from, clock, progress)
    with clock("instruments"):
        thinking = reasoning.measured(
            trainer, data.test, data.until_test if config["mask_history"] else None, made_from
        )
    record.write(Path.cwd(), config, trainer, data, scores, clock, thinking)


def _settle_amp(config: ThinkConfig) -> None:
    """RecBole's enable_amp is in bfloat16, and off where a processor has no such products."""
    # a GPU's own would be float16, which underflows without RecBole's enable_scaler
    torch.set_autocast_dtype(config["device"].type, torch.bfloat16)
    if config["enable_amp"]:
        config["enable_amp"] = choose("bfloat16", Path.cwd(), *AMP_SHAPE) == torch.bfloat16


def _evaluate_all(trainer, data: Data, made_from: dict[str, str], clock, progress: bool) -> dict[str, Scores]:
    """Validation and test under the chosen masking, and test under the other one, from one checkpoint."""
    masked = bool(trainer.config["mask_history"])
    wanted = {
        "valid": (data.valid, data.until_valid if masked else None),
        "test_other_masking": (data.test, None if masked else data.until_test),
        "test": (data.test, data.until_test if masked else None),  # last, since loggers keep the last one
    }
    scores = {}
    for name, (loader, mask) in wanted.items():
        with clock(f"evaluate_{name}"):
            # each from the seed, so that it gives the same after a fit, after another one, or alone
            init_seed(trainer.config["seed"], trainer.config["reproducibility"])
            make = partial(evaluate, trainer, loader, mask, progress)  # told last where to keep shards
            scores[name] = resume.evaluated(Path(resume.EVALUATION, f"{name}.json"), made_from, make)
    return scores


__all__ = ["Data", "prepare", "run"]
