"""What a search found: a table of its trials, the best values as a YAML to run with, and a page of charts."""

import csv
import io
import json
import warnings
from typing import Any

import yaml

from recbole_think.artifacts import write_text
from recbole_think.layers import flat
from recbole_think.search.study import Search, finished

SHOWN = 5  # trials told on the terminal


def write(search: Search, study: Any) -> str:
    """Write ``trials.csv``, ``best.yaml`` and ``search.html``; return what to tell."""
    write_text(search.folder / "trials.csv", _table(search, study))
    done = sorted(finished(study), key=lambda trial: -trial.value)
    if not done:
        return f"no trial has ended well\n\nfolder: {search.folder}\n"
    best = {**flat(search.options), **_values(search, done[0])}
    command = f"python run_recbole_think.py --model={search.model} --dataset={search.dataset} --config_files=best.yaml"
    write_text(search.folder / "best.yaml", f"# {command}\n{yaml.safe_dump(_nested(best), sort_keys=True)}")
    write_text(search.folder / "search.html", _page(study))
    lines = [f"{trial.value:.4f}  {_spoken(_values(search, trial))}" for trial in done[:SHOWN]]
    return "\n".join([f"best of {len(done)} trials, on validation:", *lines, "", f"folder: {search.folder}", ""])


def _values(search: Search, trial: Any) -> dict[str, Any]:
    return {name: json.loads(value) if search.space[name].kind == "choice" else value
            for name, value in trial.params.items()}  # fmt: skip


def _spoken(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                     for name, value in values.items())  # fmt: skip


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        *blocks, key = name.split(".")
        place = found
        for block in blocks:
            place = place.setdefault(block, {})
        place[key] = value
    return found


def _table(search: Search, study: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "valid", "seconds", *search.space, "folder", "reason"])
    for trial in study.trials:
        told = [trial.user_attrs.get(name, "") for name in ("folder", "reason")]
        values = [trial.params.get(name, "") for name in search.space]
        writer.writerow(
            [trial.number, trial.state.name.lower(), trial.value, trial.user_attrs.get("seconds", ""), *values, *told]
        )
    return text.getvalue()


def _page(study: Any) -> str:
    from optuna import visualization
    from plotly.io import to_html

    charts = ["plot_optimization_history", "plot_slice", "plot_parallel_coordinate"]
    values = {trial.value for trial in finished(study)}
    if len(values) > 1:
        charts.append("plot_param_importances")
    parts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in charts:
            figure = getattr(visualization, name)(study)
            parts.append(to_html(figure, full_html=False, include_plotlyjs="inline" if not parts else False))
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Hyper-parameters</title><body>{''.join(parts)}</body></html>\n"
    )
