"""Where every setting came from: the effective values of a configuration beside the layer that set each.

Takes layers as (name, settings), earlier ones below later ones, and the settings in effect; gives sorted rows and a
table. Knows nothing of what a setting means.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Layer = tuple[str, Mapping[str, Any]]
ABSENT = object()


class Row(NamedTuple):
    """One setting in effect."""

    key: str  # blocks by dots, as on the command line
    layer: str
    value: Any


def flat(block: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested blocks as one level, ``{"decode.num_beams": 50}``; an empty block stays a value."""
    found: dict[str, Any] = {}
    for key, value in block.items():
        nested = isinstance(value, Mapping) and value
        found.update(flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return found


def origins(layers: Sequence[Layer], effective: Mapping[str, Any]) -> list[Row]:
    """Name the layer of every value in ``effective``, sorted by key.

    The highest layer that says anything of a key is its own; where the value is not what that layer says, it was
    ``derived`` from it (a path made absolute, a word made a list), and where no layer says anything, from other keys.
    """
    rows = []
    for key, value in sorted(flat(effective).items()):
        said = [(name, _said(settings, key)) for name, settings in layers]
        name, given = next(((n, v) for n, v in reversed(said) if v is not ABSENT), ("", ABSENT))
        if given is ABSENT:
            name = "derived"
        elif _text(given) != _text(value):
            name = f"derived from {name}"
        rows.append(Row(key, name, value))
    return rows


def _said(settings: Mapping[str, Any], key: str) -> Any:
    """What a layer says of a dotted key: its value, or that of the plain value a block is later made of."""
    found: Any = settings
    for part in key.split("."):
        if not isinstance(found, Mapping):
            return found
        if part not in found:
            return ABSENT
        found = found[part]
    return found


def table(rows: Sequence[Row]) -> str:
    """Three aligned columns: key, layer, value as JSON (which the command line reads as well)."""
    keys, names = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "".join(f"{row.key:<{keys}}  {row.layer:<{names}}  {_text(row.value)}\n" for row in rows)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
