"""Twins of a leaderboard: ``<name>: {twin_of: <row that thinks>}`` is written out as a row of its own.

Same stages, teachers and prompt; no thought, and as many beams as its row looks at candidates, so that nobody has to
multiply, or to say a recipe twice. Everything else is that row's.
"""

from collections.abc import Mapping
from typing import Any

from recbole_think.catalog import family, recipe
from recbole_think.decoding.options import DecodeOptions
from recbole_think.errors import InputError
from recbole_think.layers import flat
from recbole_think.options import read_options

KEYS = {"twin_of", "seeds", "minutes"}  # of a twin
KEEPS = ("model", "seeds", "runs_of")  # what it takes from its row as it is
BLOCK = "decode."


def written_out(where: str, twin: Mapping[str, Any], row: Mapping[str, Any], shared: Mapping[str, Any]) -> dict:
    """Return a twin as the YAML could say it without ``twin_of``.

    Args:
        where: what to call it in an error.
        twin: its keys, ``twin_of`` among them.
        row: the row it is the twin of.
        shared: options of every row of the board.

    Raises:
        InputError: that row does not think.
    """
    given = row.get("options") or {}
    model = str(row.get("model"))
    every = {**flat(recipe(model)), **flat(shared), **flat(given)}
    try:
        decode = read_options(DecodeOptions, _block(every), "decode")
    except InputError as why:
        raise InputError(f"{where}: {why}") from why
    if family(model) != "OneRecThink" or not decode.think:
        raise InputError(f"{where}: row {twin['twin_of']!r} does not think, so it has no twin without a thought")
    options = {key: value for key, value in given.items() if not key.startswith(BLOCK)}
    options["decode"] = {**_block(flat(given)), "think": False, "num_beams": decode.candidates}
    kept = {key: row[key] for key in KEEPS if key in row}
    own = {key: value for key, value in twin.items() if key != "twin_of"}
    return {**kept, **own, "stages_from": twin["twin_of"], "options": options}


def _block(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the block, from options by dotted key."""
    return {key.removeprefix(BLOCK): value for key, value in options.items() if key.startswith(BLOCK)}
