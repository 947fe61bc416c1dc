"""RecBole-Think: reasoning recommenders on RecBole. What it exports is loaded when first asked for."""

from importlib import import_module

__version__ = "0.1.0"
_HOMES = {
    "run": "recbole_think.experiment",
    "load": "recbole_think.loading",
    "OneRecThink": "recbole_think.model",
    "InputError": "recbole_think.errors",
}
__all__ = ["InputError", "OneRecThink", "load", "run"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'recbole_think' has no attribute {name!r}")
