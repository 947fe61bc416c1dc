"""What is searched: options by dotted key, each with the values it may take; from YAML, or from RecBole's files.

RecBole's ``hyper.test`` has lines such as ``learning_rate loguniform -8,0`` (powers of e), ``dropout uniform 0.0,0.5``,
``n_layers quniform 1,4,1``, ``hidden_size choice [64,128]``. Ours say the same in YAML: ``{log: [0.0003, 1]}``,
``{uniform: [0, 0.5]}``, ``{uniform: [0, 0.5, 0.1]}`` with a step, ``{int: [1, 4]}``, ``[64, 128]``.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recbole_think.errors import InputError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
KINDS = ("choice", "uniform", "log", "int")


@dataclass(frozen=True)
class Dimension:
    """Values of one option."""

    kind: str  # of KINDS
    values: tuple  # choice: all of them; uniform: low, high and maybe a step; log, int: low, high

    def drawn(self, name: str, trial: Any) -> Any:
        """The value Optuna suggests for a trial."""
        if self.kind == "choice":  # as text, since Optuna keeps no lists
            return json.loads(trial.suggest_categorical(name, self.texts))
        low, high, *step = self.values
        if self.kind == "int":
            return trial.suggest_int(name, low, high)
        return trial.suggest_float(name, low, high, log=self.kind == "log", step=step[0] if step else None)

    @property
    def texts(self) -> list[str]:
        """Choices as JSON."""
        return [json.dumps(value) for value in self.values]

    @property
    def first(self) -> Any:
        """One of the values, to try whether the option exists."""
        return self.values[0]


def read_space(given: Any, where: str) -> dict[str, Dimension]:
    """Read a space from YAML.

    Args:
        given: dimension by dotted key.
        where: the file, for errors.

    Raises:
        InputError: there is none, or one that cannot be read.
    """
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{where}: space must name options and their values, got {given!r}")
    return {str(name): _dimension(what, f"{where}, {name}") for name, what in given.items()}


def read_hyper_file(path: Path) -> dict[str, Dimension]:
    """Read RecBole's format.

    Raises:
        InputError: a line cannot be read.
    """
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words, where = line.split(), f"{path}, line {number}"
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 3:
            raise InputError(f"{where}: expected an option, a kind and values, got {line!r}")
        name, kind, text = words[0], words[1], " ".join(words[2:])
        found[name] = _of_recbole(kind, loaded(text if text.startswith("[") else f"[{text}]", where), where)
    if not found:
        raise InputError(f"{path} names no option")
    return found


def _of_recbole(kind: str, values: Any, where: str) -> Dimension:
    if kind == "choice":
        return _dimension(values, where)
    if not isinstance(values, list) or len(values) != (3 if kind == "quniform" else 2):
        raise InputError(
            f"{where}: {kind} wants {'low,high,step' if kind == 'quniform' else 'low,high'}, got {values!r}"
        )
    if kind == "loguniform" and all(isinstance(value, int | float) for value in values):
        return _dimension({"log": [math.exp(value) for value in values]}, where)
    if (
        kind == "quniform"
        and values[2] == 1
        and all(isinstance(value, int | float) and value % 1 == 0 for value in values)
    ):
        return _dimension({"int": [int(value) for value in values[:2]]}, where)
    if kind in ("uniform", "quniform"):
        return _dimension({"uniform": values}, where)
    raise InputError(f"{where}: unknown kind {kind!r}; there are choice, uniform, quniform, loguniform")


def loaded(text: str, where: str) -> Any:
    """Read YAML as data, never as code; ``1e-3`` is a number, as in RecBole's files and unlike YAML's own rule.

    Raises:
        InputError: it is not YAML.
    """
    try:
        return _numbers(yaml.safe_load(text))
    except yaml.YAMLError as why:
        raise InputError(f"{where} cannot be read: {' '.join(str(why).split())}") from why


def _numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def _dimension(what: Any, where: str) -> Dimension:
    if isinstance(what, list):
        what = {"choice": what}
    if not isinstance(what, Mapping) or len(what) != 1 or next(iter(what)) not in KINDS:
        raise InputError(
            f"{where}: expected a list of values, or one of {', '.join(KINDS)} with its values, got {what!r}"
        )
    kind, values = next(iter(what.items()))
    if not isinstance(values, list) or not values:
        raise InputError(f"{where}: {kind} wants a list, got {values!r}")
    if kind == "choice":
        return Dimension(kind, tuple(values))
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    sizes = (2, 3) if kind == "uniform" else (2,)
    if len(numbers) != len(values) or len(values) not in sizes or not values[0] < values[1]:
        raise InputError(f"{where}: {kind} wants a lower and a higher number, got {values!r}")
    if kind == "log" and values[0] <= 0:
        raise InputError(f"{where}: log wants numbers above 0, got {values!r}")
    if kind == "int" and any(value % 1 for value in values):
        raise InputError(f"{where}: int wants whole numbers, got {values!r}")
    if len(values) == 3 and values[2] <= 0:
        raise InputError(f"{where}: the step must be positive, got {values[2]}")
    return Dimension(kind, tuple(values))
