"""Lists that were made elsewhere, judged by RecBole's evaluator as those of a fit are."""

import contextlib
import tempfile
from types import SimpleNamespace
from typing import Any

from recbole_think import catalog
from recbole_think.evaluation import Scores, ThinkCollector, evaluate
from recbole_think.loading import LoadedRun


def judge(run: LoadedRun, split: str, lists: list[tuple[int, list[int]]], masked: bool) -> Scores:
    """Judge the lists of a split.

    Args:
        run: a finished run of a model that makes lists.
        split: test or valid.
        lists: RecBole ids of the user and of items, best first, for every row of the split's loader in order.
        masked: items of the history do not count, should lists hold any.
    """
    (loader, histories), config = run.splits[split], run.config
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # RecBole's trainer writes where it is
        config["checkpoint_dir"], config["log_wandb"] = scratch, False
        trainer: Any = catalog.load(catalog.lookup(config["model"]).trainer)(config, run.model)
        trainer.eval_collector = ThinkCollector(config)
        trainer.eval_collector.data_collect(SimpleNamespace(dataset=run.dataset))
        return evaluate(trainer, loader, histories if masked else None, lists=lists)
