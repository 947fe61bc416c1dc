"""What an experiment has behind it: the fit and each evaluation are kept when they are done, and read back.

An evaluation is bound to the very weights it was made from. A model of ours keeps its stages one by one
(``stages/stage.py``); the fit of a RecBole model goes on from its last validation (``fit_state.py``). Works in the run
folder.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from recbole_think.artifacts import read_json, require_same, write_json
from recbole_think.errors import InputError
from recbole_think.evaluation import Scores
from recbole_think.fit_state import NAME, FitState, can_go_on
from recbole_think.shards import Keep

FIT = "fit.json"  # its presence means: the fit of a RecBole model is done
EVALUATION = "evaluation"  # a JSON file per finished evaluation


def fit_once(trainer, data, show_progress: bool) -> float:
    """Fit, ending with the weights validation chose; a RecBole fit that finished before is only read back.

    Returns:
        Seconds that fitting took in processes before this one, as far as a RecBole fit went on from them.
    """
    if hasattr(trainer, "restore_best"):
        trainer.fit(data.train, data.valid, saved=True, show_progress=show_progress)
        trainer.restore_best()
        return 0.0
    made_from = {"data_fingerprint": data.fingerprint}
    if Path(FIT).is_file():
        found = read_json(Path(FIT))
        before = seconds = found.get("seconds", 0.0)
        require_same(found, made_from, Path.cwd() / FIT)
        trainer.saved_model_file = str(checkpoint_of(Path.cwd()))
        trainer.eval_collector.data_collect(data.train)  # what fit would have told the evaluator
    else:
        for half_way in Path(trainer.checkpoint_dir).glob(f"{trainer.config['model']}-*.pth"):
            half_way.unlink()
        state = FitState(trainer, data.train, made_from)
        _fit(trainer, data, state, show_progress)
        before, seconds = state.before, state.seconds
    saved = Path(trainer.saved_model_file)
    if saved.is_file():  # not where validation never came (eval_step > epochs)
        restore(trainer.model, saved, trainer.device)
        write_json(Path(FIT), {"checkpoint": saved.name, "seconds": round(seconds, 2), **made_from})
        (Path(trainer.checkpoint_dir) / NAME).unlink(missing_ok=True)
    return before


def _fit(trainer, data, state: FitState, show_progress: bool) -> None:
    """Fit with RecBole's own loop, from the beginning or from where a loop before was cut off."""
    keep = state.keep if can_go_on(trainer) else None
    if keep and state.path.is_file() and not state.restore():
        trainer.eval_collector.data_collect(data.train)  # cut off after its last validation: nothing is left to train
        return
    trainer.fit(data.train, data.valid, saved=True, show_progress=show_progress, callback_fn=keep)


def checkpoint_of(folder: Path) -> Path:
    """Return the checkpoint a RecBole model of a run folder was evaluated with.

    Raises:
        InputError: the run kept none.
    """
    path = folder / FIT
    saved = folder / "checkpoints" / read_json(path)["checkpoint"] if path.is_file() else None
    if saved is None or not saved.is_file():
        raise InputError(f"{folder} holds no finished weights ({saved or path} is missing); run it again")
    return saved


def restore(model, path: Path, device) -> None:
    """Load a checkpoint of RecBole's into ``model``; torch >= 2.6 refuses RecBole's own way of doing it.

    The file is a pickle, which can run any code: give it only what a run of your own wrote.
    """
    state = torch.load(path, device, weights_only=False)
    model.load_state_dict(state["state_dict"])
    model.load_other_parameter(state["other_parameter"])


def weights_digest(model: torch.nn.Module) -> str:
    """Digest of every parameter of ``model``."""
    found = hashlib.sha256()
    for name, value in model.named_parameters():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def evaluated(path: Path, made_from: dict[str, str], evaluate: Callable[[Keep], Scores]) -> Scores:
    """Return the evaluation kept at ``path`` if it has the same origin; else make it and keep it there.

    Args:
        path: JSON file.
        made_from: what the outcome depends on besides the configuration: digests of the weights and of the data.
        evaluate: makes the evaluation, keeping what takes long where it is told to.
    """
    kept = read_json(path) if path.is_file() else {}
    keep = Keep(path.with_suffix(".shards"), made_from)
    if kept.get("made_from") == made_from:
        keep.drop()  # a kill between the record and this leaves them behind
        found = kept["scores"]
        return Scores(**{**found, "users": np.array(found["users"]), "ranks": np.array(found["ranks"], np.int32)})
    scores = evaluate(keep)
    plain = {**vars(scores), "users": scores.users.tolist(), "ranks": scores.ranks.tolist()}
    write_json(path, {"made_from": made_from, "scores": plain})
    keep.drop()
    return scores
