"""The record of one experiment: metrics.json, facts.json and per-user ranks, in one form for every model."""

import shlex
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recbole_think.artifacts import versions, write_json, write_whole
from recbole_think.blocks import BLOCKS
from recbole_think.corpus.histories import asked_before, targets
from recbole_think.corpus.items import read_items
from recbole_think.folder import NOT_IDENTITY
from recbole_think.layers import flat
from recbole_think.machine import commit, hardware, peak_memory_mib
from recbole_think.reasoning import thinks

NOT_COMMAND = NOT_IDENTITY | {"model", "dataset", "data_path"}  # a path of one machine is no use to another
LISTED = 10  # titles kept of each sample user's list


class Clock:
    """Seconds per phase (one entered twice adds up), and the commit the experiment began with."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.commit = commit()

    @contextmanager
    def __call__(self, phase: str):
        """Time the block as ``phase``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - start)

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds to a phase."""
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + seconds, 2)


def write(
    folder: Path, config, trainer, data, scores: dict, clock: Clock, reasoning: dict[str, Any] | None = None
) -> None:
    """Write ``ranks.tsv``, ``facts.json`` and, last, ``metrics.json`` (whose presence means: finished)."""
    _write_ranks(folder / "ranks.tsv", data, scores)
    common = {
        "data_fingerprint": data.fingerprint,
        "versions": versions(),
        "commit": clock.commit,
        "seed": config["seed"],
    }
    write_json(folder / "facts.json", {**common, "parents": getattr(trainer, "parents", {}), "given": given(config)})
    found = _metrics(config, trainer, data, scores, clock, reasoning or {})
    write_json(
        folder / "metrics.json",
        {**found, **common, "hardware": hardware(), "finished": time.strftime("%Y-%m-%d %H:%M:%S%z")},
    )


def _metrics(config, trainer, data, scores: dict, clock: Clock, reasoning: dict[str, Any]) -> dict[str, Any]:
    test, other, stages = scores["test"], scores["test_other_masking"], getattr(trainer, "stage_rows", [])
    said = {key: value for key, value in reasoning.items() if key != "thoughts"}
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "mask_history": bool(config["mask_history"]),
        "think": thinks(trainer.model),
        "tie_rule": tie_rule(config),
        "valid": scores["valid"].metrics,
        "test": test.metrics,
        "standard_error": test.standard_error,
        "test_other_masking": other.metrics,
        "standard_error_other_masking": other.standard_error,
        "users": len(test.users),
        "repeated_target_share": data.repeated,
        "illegal_rate": test.illegal_rate,
        "seconds": clock.seconds,
        "stages": stages,
        "perplexity": perplexities(stages),
        "alignment": {row["stage"]: row["figures"] for row in stages if "captions" in row["figures"]},
        "peak_memory_mib": peak_memory_mib(),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "train_tokens": getattr(trainer, "train_tokens", None),
        "health": getattr(trainer.model, "health", None),
        "command": command(config),
        "samples": samples(config, data, test, reasoning.get("thoughts") or []),
        **({"reasoning": said} if reasoning else {}),
    }


def tie_rule(config) -> str:
    """How events were put in order; of equal times many data sets have some, and their order decides test items."""
    order = config["eval_args"]["order"]
    return "by time, equal times as in the file" if order == "TO" else f"order {order}"


def perplexities(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Perplexity of held-out general text: the backbone's, and after every stage."""
    known = [row for row in stages if row.get("perplexity") is not None]
    if not known:
        return []
    before = {"after": "backbone", "perplexity": known[0]["perplexity_before"]}
    return [before, *({"after": row["stage"], "perplexity": row["perplexity"]} for row in known)]


def _write_ranks(path: Path, data, scores: dict) -> None:
    """One line per test target: raw user id, its rank under either masking (0 = beyond the list), and its kind.

    ``history_length`` counts the user's events before the target, ``target_count`` the target's in training.
    """
    dataset = data.test.dataset
    user_names = dataset.field2id_token[dataset.uid_field]
    users, items = _asked(dataset, scores["test"])
    met = np.bincount(data.histories.items, minlength=dataset.item_num)
    columns = {
        "user_id": user_names[users],
        "rank": scores["test"].ranks,
        "rank_other_masking": scores["test_other_masking"].ranks,
        "history_length": np.diff(data.until_test.starts)[users] + asked_before(users),
        "target_count": met[items],
    }

    def fill(draft: Path) -> None:
        with draft.open("w", encoding="utf-8") as file:
            for row in [tuple(columns), *zip(*columns.values(), strict=True)]:
                file.write("\t".join(map(str, row)) + "\n")

    write_whole(path, fill)


def read_ranks(path: Path) -> dict[str, tuple[int, int]]:
    """Read ``ranks.tsv`` back as ``{raw user id: (rank, rank under the other masking)}``, whatever else it tells."""
    with path.open(encoding="utf-8", newline="\n") as file:
        names = next(file).rstrip("\n").split("\t")
        rows = [dict(zip(names, line.rstrip("\n").split("\t"), strict=True)) for line in file]
    return {row["user_id"]: (int(row["rank"]), int(row["rank_other_masking"])) for row in rows}


def command(config) -> str:
    """Return the command that makes this run again."""
    given = flat({key: value for key, value in config.external_config_dict.items() if key not in NOT_COMMAND})
    words = [f"--{key}={_word(value)}" for key, value in given.items()]
    return " ".join(
        ["python run_recbole_think.py", f"--model={config['model']}", f"--dataset={config['dataset']}", *words]
    )


def given(config) -> dict[str, Any]:
    """Return the user's settings of all layers, from which ``load`` makes the configuration again on this machine."""
    kept = {key: value for key, value in config.external_config_dict.items() if key not in NOT_COMMAND}
    kept |= {block: config[block] for block in BLOCKS if block in kept}  # their paths have been made absolute
    return kept | {"data_path": str(Path(config["data_path"]).parent), "cache_dir": config["cache_dir"]}


def _word(value: Any) -> str:
    return shlex.quote("~" if value is None else str(value))


def samples(config, data, scores, thoughts: Sequence[list[str]]) -> list[dict[str, Any]]:
    """Return the first test users: latest history, first recommendations and target, as titles where there are any.

    Args:
        config: RecBole's configuration.
        data: loaders and histories.
        scores: of the test.
        thoughts: what was thought about the first of them.
    """
    dataset = data.test.dataset
    names, users = dataset.field2id_token[dataset.iid_field], dataset.field2id_token[dataset.uid_field]
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    titles = [None, *(item.title for item in read_items(path, dataset.iid_field, list(names[1:]), lenient=True)[0])]
    asked, wanted = _asked(dataset, scores)
    shown = zip(asked.tolist(), wanted.tolist(), scores.ranks.tolist(), scores.lists, strict=False)
    return [
        {
            "user": str(users[user]),
            "history": [titles[item] for item in _before(data, asked, wanted, row)[-5:]],
            **({"thoughts": thoughts[row]} if row < len(thoughts) else {}),
            "recommended": [titles[item] for item in items[:LISTED]],
            "target": titles[target],
            "rank": rank,  # titles may be shared, so the hit is told by its place; 0 = beyond the whole list
        }
        for row, (user, target, rank, items) in enumerate(shown)
    ]


def _asked(dataset, scores) -> tuple[np.ndarray, np.ndarray]:
    """User and target of every list that was ranked: int64 [U] each.

    A model without histories gives a user one list, whatever the number of targets, of which the last one is told.
    """
    users, items = targets(dataset)
    if np.array_equal(users, scores.users):
        return users, items
    target_of = dict(zip(users.tolist(), items.tolist(), strict=True))
    return scores.users, np.array([target_of[user] for user in scores.users.tolist()])


def _before(data, users: np.ndarray, items: np.ndarray, row: int) -> list[int]:
    """What the user of a ranked row had met before, oldest first."""
    own = items[:row][users[:row] == users[row]]
    return [*data.until_test.of(users[row]).tolist(), *own.tolist()]
