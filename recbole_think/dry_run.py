"""What a run will cost: sizes from the data, seconds and memory from a probe of ten seconds; nothing is kept.

Stages are probed by training them for a moment (those that learn by rewards by two of their steps), evaluation by
ranking for a few users. RecBole's own models are probed by a few batches of an epoch and of an evaluation.
"""

import contextlib
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole.utils import init_seed

from recbole_think import catalog, folder
from recbole_think.config import ThinkConfig
from recbole_think.evaluation import ThinkCollector
from recbole_think.experiment import Data, prepare, require_inputs, training_data
from recbole_think.machine import peak_memory_mib
from recbole_think.prompts.options import OWN

log = logging.getLogger(__name__)
PROBE_S = 10.0  # in all
EVALUATIONS = 3  # validation, test, test under the other masking
BATCHES = 3  # of a RecBole model, besides the first one
PROBED_USERS = 16, 256  # to set up, and to measure time and memory with


def dry_run(
    model: str,
    dataset: str,
    config_files: Sequence[str] = (),
    config_dict: Mapping[str, Any] | None = None,
    argv: Sequence[str] = (),
) -> dict[str, Any]:
    """Size up what ``run`` would do with the same arguments.

    Returns:
        users, items, events, parameters, stages (name, tokens, steps, seconds), evaluation_seconds, seconds,
        peak_memory_mib, and general_text: whether the run would make general text first, which is not counted.

    Raises:
        InputError: something asked for cannot be done.
    """
    config = ThinkConfig(model, dataset, config_files, config_dict, argv)
    require_inputs(config)
    config["cache_dir"] = str(folder.cache_dir(config["cache_dir"]))
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        config["run_folder"], config["checkpoint_dir"] = scratch, str(Path(scratch) / "checkpoints")
        init_seed(config["seed"], config["reproducibility"])
        data = prepare(config)
        config["data_fingerprint"] = data.fingerprint
        recommender = config.model_class(config, training_data(data.train)).to(config["device"])
        trainer = catalog.load(catalog.lookup(model).trainer)(config, recommender)
        trainer.eval_collector = ThinkCollector(config)
        stages = _staged(trainer, data) if hasattr(trainer, "recipe") else _epochs(trainer, data)
        evaluation = _evaluation(trainer, data)
    found = {
        "model": model,
        "dataset": dataset,
        "users": len(data.test.dataset),
        "items": data.test.dataset.item_num - 1,
        "events": len(data.histories.items),
        "parameters": sum(value.numel() for value in recommender.parameters()),
        "stages": stages,
        "evaluation_seconds": evaluation,
        "general_text": hasattr(trainer, "recipe") and trainer.recipe.general is not None,
    }
    validations = sum(row["validations"] for row in stages)
    found["seconds"] = sum(row["seconds"] for row in stages) + (EVALUATIONS + validations) * evaluation
    found["peak_memory_mib"] = peak_memory_mib()
    return found


def describe(found: dict[str, Any]) -> str:
    """Say what ``dry_run`` found, in a few lines."""
    lines = [
        f"{found['model']} on {found['dataset']}: {found['users']:,} users, {found['items']:,} items, "
        f"{found['events']:,} training events, {found['parameters']:,} parameters",
    ]
    for row in found["stages"]:
        tokens = f"{row['tokens']:,} tokens, " if row["tokens"] else ""
        lines.append(f"  {row['stage']:<18} {tokens}{row['steps']:,} steps: about {_minutes(row['seconds'])}")
    lines.append(
        f"  one evaluation: about {_minutes(found['evaluation_seconds'])}; {EVALUATIONS} at the end, "
        f"{sum(row['validations'] for row in found['stages'])} at most while training"
    )
    lines.append(
        f"in all about {_minutes(found['seconds'])} on this machine as busy as it is now, "
        f"{found['peak_memory_mib'] / 1024:.1f} GiB of memory; nothing was trained or kept"
    )
    if found["general_text"]:
        lines.append("not counted: general text is made by the whole backbone, once a machine")
    return "\n".join(lines) + "\n"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _staged(trainer, data: Data) -> list[dict[str, Any]]:
    """Plan every stage and train each for a moment."""
    from recbole_think.prompts.alignment import GeneralText
    from recbole_think.prompts.general import questions
    from recbole_think.stages.probing import probe

    options = trainer.model.options["alignment"]
    if options.general == OWN:  # answers are made by the run itself; their length is what counts here
        stand_in = " ".join(["and"] * options.answer_tokens)
        trainer.recipe.general = [GeneralText(stand_in, question) for question in questions(options.general_prompts)]
    context, rows = trainer.context(data.valid, show_progress=False), []
    trainer.valid_data, trainer.recipe.dry = data.valid, True
    stages = trainer.recipe.stages()
    for stage in stages:
        if hasattr(stage, "probe"):
            rows.append({"stage": stage.name, "validations": stage.options.validations, **stage.probe(context)})
            continue
        plan = stage.plan(context)
        with stage.learning(context.model):
            per_token = probe(stage.name, context, stage.options, plan, PROBE_S / (len(stages) + 1))
        seconds = per_token * plan.tokens
        # alignment is validated by a loss, which costs next to nothing
        ranked = {"recommendation": 1, "activation": getattr(stage.options, "rounds", 1)}.get(stage.name, 0)
        validations = stage.options.validations * ranked
        rows.append({"stage": stage.name, "tokens": plan.tokens, "steps": len(plan), "seconds": seconds,
                     "validations": validations})  # fmt: skip
    return rows


def _epochs(trainer, data: Data) -> list[dict[str, Any]]:
    """Time a few training batches of a RecBole model; ``epochs`` is what it may train at most."""
    epoch = trainer.batches(0) if hasattr(trainer, "batches") else data.train
    optimizer, batches = trainer.optimizer, len(epoch)
    trainer.model.train()
    done, begin = 0, time.perf_counter()
    for done, interaction in enumerate(epoch):
        if done == 1:
            begin = time.perf_counter()
        optimizer.zero_grad()
        losses: Any = trainer.model.calculate_loss(interaction.to(trainer.device))
        loss: Any = sum(losses) if isinstance(losses, tuple) else losses
        loss.backward()
        optimizer.step()
        loss.item()  # waits for a GPU, as RecBole's own loop does
        if done == BATCHES:
            break
    trainer.model.eval()
    seconds = (time.perf_counter() - begin) / max(1, done) * batches * trainer.epochs
    validations = trainer.epochs // max(1, trainer.config["eval_step"])
    return [{"stage": f"at most {trainer.epochs} epochs", "tokens": None, "steps": batches * trainer.epochs,
             "seconds": seconds, "validations": validations}]  # fmt: skip


def _evaluation(trainer, data: Data) -> float:
    """Seconds of one full evaluation, from ranking for a few users."""
    dataset = data.test.dataset
    trainer.eval_collector.data_collect(data.train)
    seconds = 0.0
    for users in PROBED_USERS:
        few = dataset.copy(dataset.inter_feat[:users])
        loader = type(data.test)(trainer.config, few, data.test._sampler, shuffle=False)
        begin = time.perf_counter()
        trainer.evaluate(loader, load_best_model=False)
        seconds = (time.perf_counter() - begin) / len(few) * len(dataset)
    return seconds
