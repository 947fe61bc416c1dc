"""RecBole's Config, taught where our YAML lives and to refuse what nobody reads.

Later layers win: RecBole's defaults < properties/overall.yaml < properties/dataset < properties/model (a recipe's last)
< --config_files < config_dict < --key=value. Blocks are merged key by key; a ``split`` is replaced whole.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from recbole.config import Config
from recbole.utils import ModelType

from recbole_think import catalog, folder, processes
from recbole_think.corpus.parts import of_rows
from recbole_think.errors import InputError
from recbole_think.layers import Layer, Row, origins
from recbole_think.options import near_hint
from recbole_think.paths import properties_dir

NUMPY_NAMES = {"float": np.float64, "int": np.int64, "object": np.object_, "str": np.str_, "bool8": np.bool_}
PAIRS_PER_BATCH = 1_000_000  # RecBole divides a general model's eval_batch_size by the number of items
ALWAYS_KNOWN = {"model", "dataset", "config_files", "nproc", "world_size", "local_rank", "encoding"}


def merge(base: dict, extra: Mapping) -> dict:
    """Lay ``extra`` over ``base`` in place, key by key; a ``split`` is replaced whole."""
    for key, value in extra.items():
        if key != "split" and isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = merge({}, value) if isinstance(value, Mapping) else value  # never the caller's own blocks
    return base


class ThinkConfig(Config):
    """Adds catalog names, our properties, nested overrides and refusal of unknown keys."""

    def __init__(
        self,
        model: str,
        dataset: str,
        config_files: Sequence[str] = (),
        config_dict: Mapping[str, Any] | None = None,
        argv: Sequence[str] = (),
    ):
        """Read every layer.

        Args:
            model: a name of the catalog, or a recipe's.
            dataset: a name of properties/dataset, or of a folder of atomic files under ``data_path``.
            config_files: YAML files of the user, later ones win.
            config_dict: settings from Python, typed (strings are never evaluated).
            argv: ``--key=value`` or ``--block.key=value`` words.

        Raises:
            InputError: any layer holds something that cannot be used.
        """
        self._beneath: list[Layer] = []  # what lies under the user's own settings, lowest first
        self._files: list[Layer] = []
        self._argv = list(argv)  # never sys.argv: a library must not read its host's command line
        try:
            super().__init__(model, dataset, list(config_files), dict(config_dict or {}))
        except InputError:
            raise
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as why:  # RecBole's words for bad settings
            said = " ".join(str(why).split())
            raise InputError(f"configuration of {model} on {dataset}: {said}") from why

    def compatibility_settings(self):
        """Give NumPy back the four names RecBole reads and NumPy removed; the stock method dies on NumPy 2."""
        for name, kind in NUMPY_NAMES.items():
            if name not in vars(np):
                setattr(np, name, kind)

    def _init_parameters_category(self):
        super()._init_parameters_category()
        # copies, since RecBole appends to its own module-level lists
        self.parameters = {group: list(names) for group, names in self.parameters.items()}

    def _load_config_files(self, file_list):
        given: dict = {}
        for file in file_list or ():
            if not Path(file).is_file():
                raise InputError(f"--config_files: no file {file!r}")
            layer = self._parsed(Path(file).read_text(encoding="utf-8"), file) or {}
            if not isinstance(layer, dict):
                raise InputError(f"{file}: expected key: value lines, got {type(layer).__name__}")
            self._files.append((str(file), layer))
            merge(given, layer)
        return given

    def _parsed(self, text: str, where: str):
        """Read YAML; a mistake in it is told in one line that names its place."""
        try:
            return yaml.load(text, self.yaml_loader)
        except yaml.YAMLError as why:
            raise InputError(f"{where} is not valid YAML: {' '.join(str(why).split())}") from why

    def _load_variable_config_dict(self, config_dict):
        return merge({}, config_dict or {})  # RecBole would pass strings to eval()

    def _load_cmd_line(self):
        given: dict = {}
        for arg in self._argv:
            key, equals, text = arg.removeprefix("--").partition("=")
            if not (arg.startswith("--") and equals and key):
                raise InputError(f"write options as --key=value, got {arg!r}")
            value = self._parsed(text, f"--{key}")
            for part in reversed(key.split(".")):
                value = {part: value}
            merge(given, value)
        return given

    def _merge_external_config_dict(self):
        self.external_config_dict = {}
        for layer in (self.file_config_dict, self.variable_config_dict, self.cmd_config_dict):
            merge(self.external_config_dict, layer)

    def _get_model_and_dataset(self, model, dataset):
        entry = catalog.lookup(model)
        _, self_class, dataset = super()._get_model_and_dataset(catalog.load(entry.model), dataset)
        return model, self_class, dataset

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        own = {name: asdict(options()) for name, options in getattr(model_class, "OPTIONS", {}).items()}
        self._beneath = [("default", own), ("RecBole default", merge({}, self.internal_config_dict))]
        models = dict.fromkeys([catalog.family(model), model])  # a recipe lies over its model's defaults
        for name in ("overall.yaml", f"dataset/{dataset}.yaml", *(f"model/{name}.yaml" for name in models)):
            path = properties_dir() / name
            if path.is_file():
                layer = yaml.load(path.read_text(encoding="utf-8"), self.yaml_loader) or {}
                self._beneath.append((name, layer))
                merge(self.internal_config_dict, layer)

    def origins(self) -> list[Row]:
        """Every value in effect, and the layer that set it; what no YAML sets shows as ``default``."""
        effective = merge(merge({}, self._beneath[0][1]), self.final_config_dict)
        run, cache = folder.choose(effective), folder.cache_path(effective["cache_dir"])
        effective |= {"run_folder": str(run), "checkpoint_dir": str(run / "checkpoints"), "cache_dir": str(cache)}
        words = {"model": self.model, "dataset": self.dataset, **self.cmd_config_dict}
        layers = [*self._beneath, *self._files, ("config_dict", self.variable_config_dict), ("command line", words)]
        unread = getattr(self.model_class, "UNREAD_KEYS", {})
        rows = origins(layers, effective)
        idle = [row.key in unread and row.layer == "RecBole default" for row in rows]
        return [row._replace(layer="not read") if no else row for row, no in zip(rows, idle, strict=True)]

    def _get_final_config_dict(self):
        self._refuse_unread_keys()
        blocks = getattr(self.model_class, "OPTIONS", {})
        known = ALWAYS_KNOWN.union(self.internal_config_dict, blocks, *self.parameters.values())
        for key in self.external_config_dict:
            if key not in known:
                raise InputError(f"unknown option {key!r}{near_hint(key, known)}")
        final = merge(merge({}, self.internal_config_dict), self.external_config_dict)
        self._fit_negative_samples_to_loss(final)
        self._load_only_needed_columns(final)
        if hasattr(self.model_class, "settle"):
            self.model_class.settle(final)
        if of_rows(final):
            # the data set and its loaders are sequential, whatever the model is; RecBole then wants repeats allowed
            final |= {"MODEL_TYPE": ModelType.SEQUENTIAL, "repeatable": True}
        if final["MODEL_TYPE"] != ModelType.SEQUENTIAL and "eval_batch_size" not in self.external_config_dict:
            final["eval_batch_size"] = PAIRS_PER_BATCH
        return final

    def _refuse_unread_keys(self):
        """A model of ours says which of RecBole's generic keys it does not read, and what does the job."""
        unread = getattr(self.model_class, "UNREAD_KEYS", {})
        for key in self.external_config_dict:
            if key in unread:
                raise InputError(f"{self.model} does not read {key!r}; {unread[key]}")

    def _fit_negative_samples_to_loss(self, final: dict):
        """RecBole's default asks for one uniform negative, which its own cross-entropy models refuse."""
        if (
            self.model_class.type == ModelType.SEQUENTIAL
            and final.get("loss_type") == "CE"
            and "train_neg_sample_args" not in self.external_config_dict
        ):
            final["train_neg_sample_args"] = None

    def _load_only_needed_columns(self, final: dict):
        """Without a word from the user, read just who, what and when (RecBole pads every further column)."""
        columns = final["load_col"] = dict(final.get("load_col") or {})
        if not columns.get("inter"):
            columns["inter"] = [final[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME")]
        if final.get("normalize_field") is None and not final.get("normalize_all"):
            # RecBole keeps time as float32: unix seconds would tie within 64-128 s unless scaled first
            final["normalize_field"] = [final["TIME_FIELD"]] if final["TIME_FIELD"] in columns["inter"] else None

    def _set_default_parameters(self):
        super()._set_default_parameters()
        if "data_path" in self.external_config_dict:  # RecBole ignores it for ml-100k
            folder = Path(self.external_config_dict["data_path"]).expanduser().resolve() / self.dataset
        else:
            folder = Path(self.final_config_dict["data_path"]).resolve()
        self.final_config_dict["data_path"] = str(folder)

    def _init_device(self):
        if "gpu_id" not in self.external_config_dict:  # keep the caller's CUDA_VISIBLE_DEVICES
            self.final_config_dict["gpu_id"] = os.environ.get("CUDA_VISIBLE_DEVICES", processes.gpus())
        super()._init_device()
        if (own := processes.own_device()) is not None:  # RecBole would give the first GPU to every process
            self.final_config_dict["device"] = own
