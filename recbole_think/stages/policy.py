"""A policy on its way to TRL's trainer: where it is asked, what of it learns, the plain model it speaks through.

The plain model shares the layers of ours (``dialect.py``): training one trains the other. Knows nothing of rewards.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recbole_think.corpus.histories import Histories
from recbole_think.errors import InputError
from recbole_think.processes import first_alone
from recbole_think.stages.adapters import adapted
from recbole_think.stages.dialect import Dialect, spoken_model
from recbole_think.stages.stage import CHECKPOINTS, Context

Place = tuple[np.ndarray, int, np.ndarray]  # items shown, target, all items met before
REFERENCE = "reference"  # the policy as it began, read back by TRL


@contextmanager
def layers_alone(model: Any, lora_rank: int) -> Iterator[None]:
    """Within the block the layers learn, or adapters in their place; no rows of words or codes."""
    model.requires_grad_(True)
    for rows in (model.get_input_embeddings(), model.get_output_embeddings()):
        rows.requires_grad_(False)
    with adapted(model, lora_rank):
        yield


def drawn_places(histories: Histories, last_alone: bool, wanted: int, max_history: int, seed: int) -> list[Place]:
    """Places of histories where the next item is asked for, drawn by seed: each once before any comes again.

    Args:
        histories: of training.
        last_alone: the last event of a user is the only target, where at least two come before it.
        wanted: how many.
        max_history: latest items shown.
        seed: of the run.

    Raises:
        InputError: no user has enough training events.
    """
    users, place = histories.events()
    lengths = np.diff(histories.starts)[users]
    events = np.flatnonzero((place == lengths - 1) & (lengths > 2) if last_alone else place > 0)
    if not len(events):
        raise InputError("no user has enough training events: there is no next item to be rewarded for")
    dice = np.random.default_rng([seed, 7000])
    drawn = [dice.permutation(events) for _ in range(-(-wanted // len(events)))]
    found = []
    for event in np.concatenate(drawn)[:wanted].tolist():
        before = histories.items[int(histories.starts[users[event]]) : event]
        found.append((before[-max_history:], int(histories.items[event]), before))
    return found


def policy_of(context: Context, dialect: Dialect) -> tuple[Any, Any]:
    """The model TRL trains, and its tokenizer; a completion ends where a thought is closed."""
    policy, tokenizer = spoken_model(context.model, dialect), dialect.tokenizer(context.vocabulary)
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    policy.generation_config.bos_token_id = None
    return policy, tokenizer


def reference_of(policy: Any, tokenizer: Any, folder: Path) -> Path:
    """Write the policy as the stage began, where TRL reads its reference from, and an engine that draws what it serves.

    It is gone when the stage has finished.
    """
    path = folder / CHECKPOINTS / REFERENCE
    if not (path / "config.json").is_file():
        with first_alone() as mine:
            if mine:
                _keep_reference(policy, tokenizer, path)
    return path


def _keep_reference(policy: Any, tokenizer: Any, path: Path) -> None:
    state = policy.state_dict()
    plain = {name.replace(".base_layer", ""): value for name, value in state.items() if "lora_" not in name}
    draft = path.with_name(f"{REFERENCE}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    policy.save_pretrained(draft, state_dict=plain)
    tokenizer.save_pretrained(draft)
    draft.rename(path)
