"""A finished run from Python: its model with the weights that were evaluated, its data, and lists from it.

Takes a run folder and gives, for every model, what RecBole's ``load_data_and_model`` and ``utils.case_study`` give for
its own. Works from any working directory, trains nothing, and writes nothing into the folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import init_seed
from torch import Tensor

from recbole_think import folder, resume
from recbole_think.artifacts import read_json, require_same
from recbole_think.config import ThinkConfig
from recbole_think.corpus.histories import Histories, targets
from recbole_think.corpus.items import read_items
from recbole_think.decoding.engine import EngineOptions
from recbole_think.engines import require_engine
from recbole_think.errors import InputError
from recbole_think.experiment import Data, prepare, require_inputs, training_data
from recbole_think.generative import GenerativeRecommender
from recbole_think.options import near_hint
from recbole_think.scoring import is_generative, scores_after, scores_of_rows
from recbole_think.shards import ranked_ahead
from recbole_think.stages.stage import restore


@dataclass(frozen=True)
class Recommendation:
    """One place of a list."""

    rank: int  # 1 = best
    item_id: str  # as in the data set's files
    title: str  # the item id where the data set has no title
    score: float | None  # the model's own; None for OneRecThink, whose lists come in order alone


def load(run_folder: str | Path, engine: str = "", options: EngineOptions | None = None) -> "LoadedRun":
    """Load a finished run.

    The data set is read and split again from the run's own seed (which is set, as ``run`` sets it), and must be what it
    was. A RecBole model's checkpoint is a pickle, which can run any code: load only folders you made yourself.

    Args:
        run_folder: what ``run`` returned as ``run_folder``; the command line prints it last.
        engine: who makes lists, as ``decode.engine``; "" = as in the run. A run of OneRecThink takes others.
        options: where that engine is.

    Raises:
        InputError: the folder holds no finished run, or one that cannot be had again from the data there is now; or
            an engine that cannot be had.
    """
    path = Path(run_folder).expanduser().resolve()
    _require_files(path, "metrics.json", "facts.json", "config.json")
    facts = read_json(path / "facts.json")
    config = _configuration(path, facts)
    init_seed(config["seed"], config["reproducibility"])
    data = prepare(config)
    require_same(facts, {"data_fingerprint": data.fingerprint}, path)
    config["data_fingerprint"] = data.fingerprint
    model = _model(path, config, data)
    if engine:
        _take(model, engine, options or EngineOptions())
    return LoadedRun(config, data, model, read_json(path / "metrics.json"))


def _take(model, engine: str, options: EngineOptions) -> None:
    """Let another engine make the lists of a model."""
    if not hasattr(model, "language_model"):
        raise InputError(f"engine={engine!r}: only OneRecThink has lists made by engines, this is a run of another")
    model.options["decode"] = replace(model.options["decode"], engine=engine)
    model.options["engine"] = options
    require_engine(engine, options)


def _require_files(path: Path, *names: str) -> None:
    for name in names:
        if not (path / name).is_file():
            raise InputError(f"{path} is not a finished run: {name} is missing; run it to its end first")


def _configuration(path: Path, facts: Mapping[str, Any]) -> ThinkConfig:
    """Make the configuration from what the user gave then, and check that it comes to the same."""
    if "given" not in facts:
        raise InputError(f"{path} was made by a version that did not keep what load needs; run it again")
    kept = read_json(path / "config.json")
    config = ThinkConfig(kept["model"], kept["dataset"], config_dict=facts["given"])
    wanted = folder.identity(config.final_config_dict)
    require_same(folder.filled(kept, wanted), wanted, path)
    require_inputs(config, taught=True)
    config["run_folder"], config["checkpoint_dir"] = str(path), str(path / "checkpoints")
    config["cache_dir"] = str(folder.cache_dir(config["cache_dir"]))
    config["save_dataset"] = config["save_dataloaders"] = False
    return config


def _model(path: Path, config: ThinkConfig, data: Data):
    """Build the model and give it the weights that were evaluated."""
    stages = config["stages"] or []  # of a model that is taught in stages
    if issubclass(config.model_class, GenerativeRecommender):  # what is missing would be made anew, and written
        _require_files(path, *(f"{name}/facts.json" for name in ("itemic", *stages)))
    model = config.model_class(config, training_data(data.train)).to(config["device"])
    for stage in stages:
        restore(path / stage, model.language_model)
    if not stages:
        resume.restore(model, resume.checkpoint_of(path), config["device"])
    evaluation = path / resume.EVALUATION / "test.json"
    _require_files(path, str(evaluation.relative_to(path)))
    require_same(read_json(evaluation)["made_from"], {"weights": resume.weights_digest(model)}, evaluation)
    return model.eval()


class LoadedRun:
    """A finished run, ready to recommend.

    Attributes:
        model: the recommender, with its weights.
        dataset: RecBole's data set, as the model was trained on it.
        config: RecBole's configuration.
        metrics: the content of ``metrics.json``.
        splits: by ``valid`` and ``test``, RecBole's loader and the histories that may be masked there.
        names: raw id of every item, by RecBole's.
        titles: title of every item, by RecBole's id.
    """

    def __init__(self, config: ThinkConfig, data: Data, model, metrics: dict[str, Any]):
        self.config, self.model, self.metrics = config, model, metrics
        self.dataset = training_data(data.train)
        self.splits = {"valid": (data.valid, data.until_valid), "test": (data.test, data.until_test)}
        self._rows = {split: _first_rows(loader, self.dataset.uid_field) for split, (loader, _) in self.splits.items()}
        users, items = self.dataset.uid_field, self.dataset.iid_field
        self._ids = {"user": self.dataset.field2token_id[users], "item": self.dataset.field2token_id[items]}
        self.names = [str(name) for name in self.dataset.field2id_token[items]]
        path = Path(config["data_path"]) / f"{config['dataset']}.item"
        self.titles = ["", *(text.title for text in read_items(path, items, self.names[1:], lenient=True)[0])]

    def recommend(
        self, user_or_history: str | Sequence[str], k: int = 10, mask_history: bool | None = None, split: str = "test",
        instruction: str = "",
    ) -> list[Recommendation]:  # fmt: skip
        """Recommend ``k`` items to a user of the data set, or to whoever has a history.

        Args:
            user_or_history: raw id of a user, or raw item ids, oldest first.
            k: length of the list; it is shorter where masking leaves fewer items.
            mask_history: leave out what the history holds; by default as the run was evaluated.
            split: for a user, how far the history goes: ``test`` = all but the last event, ``valid`` = all but two.
            instruction: a wish in words that steers the thought, such as "only comedies" or "explain briefly".

        Raises:
            InputError: an id nobody knows, a ``k`` the model cannot fill, a model that needs more than a history, or a
                wish to a model that does not think.
        """
        if instruction.strip():
            self._require_thinking(f"the instruction {instruction!r}")
        elif isinstance(user_or_history, str):
            scores, items = self.full_sort_topk([user_or_history], k, mask_history, split)
            return self._listed(scores[0], items[0])
        self._require_length(k)
        history = self._history(user_or_history, split)
        masked = history if self._masked(mask_history) else history[:0]
        return self._listed(*scores_after(self.model, self.dataset, history, masked, instruction).topk(k))

    def thoughts(self, user_or_history: str | Sequence[str], split: str = "test", instruction: str = "") -> list[str]:
        """What the model thinks before it answers, items by title; arguments as in ``recommend``.

        Raises:
            InputError: an id nobody knows, or a model that does not think.
        """
        self._require_thinking("thoughts")
        return self.model.thoughts([self._history(user_or_history, split)], instruction)[0]

    def _require_thinking(self, what: str) -> None:
        if not (is_generative(self.model) and self.model.decode.think):
            raise InputError(f"{what}: this run does not think; it takes OneRecThink with stage activation")

    def _history(self, user_or_history: str | Sequence[str], split: str) -> np.ndarray:
        """Whole history of a user as far as a split goes, or the one given: int64 [h], RecBole's item ids."""
        if isinstance(user_or_history, str):
            user = self._id("user", user_or_history)
            if split not in self.splits:
                raise InputError(f"split must be test or valid, got {split!r}")
            return self.splits[split][1].of(user)
        history = np.array([self._id("item", item) for item in user_or_history], dtype=np.int64)
        if not len(history):
            raise InputError("an empty history: name at least one item, or a user")
        return history

    def histories_until(self, split: str) -> Histories:
        """Whole histories of all users: ``all`` of them, or as ``test`` (but the last event) or ``valid`` (but two)."""
        if split != "all":
            return self.splits[split][1]
        loader, until_test = self.splits["test"]
        return until_test.extended(*targets(loader.dataset))

    def full_sort_scores(
        self, users: Sequence[str | int], mask_history: bool | None = None, split: str = "test"
    ) -> Tensor:
        """Score all items for each user, as RecBole's ``case_study.full_sort_scores`` does.

        Args:
            users: raw ids as strings, or RecBole's ids as whole numbers.
            mask_history: give what the history holds ``-inf``; by default as the run was evaluated.
            split: ``test`` or ``valid``, as in ``recommend``.

        Returns:
            [len(users), n_items], by RecBole's item id, on the CPU; padding and items not ranked are ``-inf``.
        """
        return torch.cat(list(self._batches(users, mask_history, split)))

    def full_sort_topk(
        self, users: Sequence[str | int], k: int, mask_history: bool | None = None, split: str = "test"
    ) -> tuple[Tensor, Tensor]:
        """Return the scores and RecBole's ids of the ``k`` best items of each user, [len(users), k] each.

        Places whose score is ``-inf`` are no recommendation. Other arguments as in ``full_sort_scores``. Asked for all
        users in the order of ``ranks.tsv``, these are the very lists that were evaluated; in other company a score may
        differ in its last digit.
        """
        self._require_length(k)
        best = [scores.topk(k) for scores in self._batches(users, mask_history, split)]
        return torch.cat([found.values for found in best]), torch.cat([found.indices for found in best])

    def _batches(self, users, mask_history: bool | None, split: str) -> Iterator[Tensor]:
        """Score users in batches of the evaluation's size: [<= size, n_items] each."""
        if split not in self.splits:
            raise InputError(f"split must be test or valid, got {split!r}")
        if isinstance(users, str) or not len(users):
            raise InputError(f"users must be a list of at least one user id, got {users!r}")
        (loader, histories), row_of = self.splits[split], self._rows[split]
        ids = [self._id("user", user) if isinstance(user, str) else int(user) for user in users]
        for user, number in zip(users, ids, strict=True):
            if number not in row_of:
                raise InputError(f"user {user!r} has no event in the {split} split of this run")
        mask = histories if self._masked(mask_history) else None
        rows = [row_of[number] for number in ids]
        if is_generative(self.model):
            self.model.item_mask = mask
        with ranked_ahead(self.model, loader, rows=rows):  # as the evaluation does it: the same batches, the same lists
            for start in range(0, len(ids), loader.step):
                part = slice(start, start + loader.step)
                yield scores_of_rows(self.model, loader, rows[part], np.array(ids[part]), mask)

    def _masked(self, mask_history: bool | None) -> bool:
        return bool(self.config["mask_history"] if mask_history is None else mask_history)

    def _require_length(self, k: int) -> None:
        most, what = self.dataset.item_num - 1, "the number of items"
        if is_generative(self.model) and self.model.decode.shortest_list < most:
            most = self.model.decode.shortest_list
            what = f"decode.{'thought_beams' if self.model.decode.think else 'num_beams'} of this run"
        if not 1 <= k <= most:
            raise InputError(f"k must be 1 to {most} ({what}), got {k}")

    def _id(self, kind: str, name: str) -> int:
        known = self._ids[kind]
        if not known.get(name):  # 0 is RecBole's padding
            raise InputError(f"unknown {kind} {name!r}{near_hint(str(name), known)}")
        return int(known[name])

    def _listed(self, scores: Tensor, items: Tensor) -> list[Recommendation]:
        own = not is_generative(self.model)
        return [
            Recommendation(rank, self.names[item], self.titles[item], score if own else None)
            for rank, (item, score) in enumerate(zip(items.tolist(), scores.tolist(), strict=True), start=1)
            if score > -np.inf
        ]


def _first_rows(loader, field: str) -> dict[int, int]:
    """Place of each user's first row in an evaluation loader, by RecBole's user id."""
    users = loader.dataset.inter_feat[field] if loader.is_sequential else loader.uid_list
    found, first = np.unique(users.numpy(), return_index=True)
    return dict(zip(found.tolist(), first.tolist(), strict=True))
