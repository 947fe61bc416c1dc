"""Folders that belong to the package: beside it in a checkout, inside it in a wheel. Imports nothing heavy."""

from pathlib import Path


def properties_dir() -> Path:
    """Folder of YAML defaults."""
    return _beside_or_inside("properties")


def baselines_dir() -> Path:
    """Folder of leaderboards."""
    return _beside_or_inside("baselines")


def results_dir() -> Path:
    """Folder of committed baseline rows."""
    return baselines_dir() / "results"


def _beside_or_inside(name: str) -> Path:
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
