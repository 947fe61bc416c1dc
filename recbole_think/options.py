"""Options of a room: one frozen dataclass read from one YAML block, unknown keys refused."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from recbole_think.errors import InputError

Options = TypeVar("Options")


def near_hint(key: str, known, prefix: str = "") -> str:
    """Return "; did you mean 'x'?" for the known key nearest to ``key``, or nothing."""
    near = get_close_matches(key, list(known), n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def read_options(cls: type[Options], given: Mapping[str, Any] | None, where: str) -> Options:
    """Build a frozen options class from the YAML block named ``where``.

    Raises:
        InputError: a key the class does not have, or a value of another type than the default's.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"{where} must be a block of options, got {given!r}")
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for key, value in (given or {}).items():
        if key not in known:
            hint = near_hint(key, known, f"{where}.")
            raise InputError(f"unknown option {where}.{key}{hint} (known: {', '.join(known)})")
        of = known[key]
        _check_type(f"{where}.{key}", value, of.default if of.default_factory is MISSING else of.default_factory())
    return cls(**(given or {}))


def _check_type(name: str, value: Any, default: Any) -> None:
    """Refuse a value of another type than the default's; whole numbers may stand for fractions, lists for tuples."""
    accepted: tuple[type, ...] = (type(default),)
    if isinstance(default, float):
        accepted = (int, float)
    elif isinstance(default, tuple):
        accepted = (list, tuple)
    wrong_bool = isinstance(value, bool) and not isinstance(default, bool)
    if wrong_bool or not isinstance(value, accepted):
        raise InputError(f"{name} must be {'a list' if list in accepted else type(default).__name__}, got {value!r}")


def check(condition: bool, message: str) -> None:
    """Raise InputError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)
