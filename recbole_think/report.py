"""A run folder -> report.html: one file that needs nothing else, to be opened in any browser.

``python -m recbole_think.report <run folder>`` makes it again. Reads the run folder and the committed rows alone, and
leaves out what the folder does not tell. Titles, names and options are other people's words: Jinja escapes them in the
page, JSON in it is escaped once more, and a content security policy lets no script run but our two.
"""

import argparse
import base64
import hashlib
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_think import figures, wording
from recbole_think.artifacts import read_json, write_text
from recbole_think.errors import InputError, exit_code
from recbole_think.itemic.codes import Codes, spelling
from recbole_think.itemic.map import read_map
from recbole_think.leaderboard.rows import comparable_rows
from recbole_think.quartiles import KINDS, by_quarter

NAME = "report.html"
PAGE = Path(__file__).resolve().parent / "page"
CUT = 10  # length of list the charts speak of, where the run has it
Chart = dict[str, Any]


def write_report(folder: Path) -> Path:
    """Write ``report.html`` of a finished run into its folder.

    Raises:
        InputError: the run is not finished, or a file in it is damaged.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no metrics.json: the run is not finished; run its command again")
    target = folder / NAME
    write_text(target, page(folder, read_json(path)))
    return target


def page(folder: Path, metrics: dict[str, Any]) -> str:
    """Return the report as HTML."""
    charts: dict[str, Chart] = {}
    code_path = folder / "itemic" / "codes.safetensors"
    table = Codes.load(code_path) if code_path.is_file() else None
    content = {
        "run": metrics,
        "headline": headline(metrics),
        "seconds": sum(metrics["seconds"].values()),
        "hardware": wording.hardware(metrics["hardware"]),
        "boards": boards(folder, metrics, charts),
        "stages": stages(folder, metrics, charts),
        "codes": codes(folder, metrics, table, charts) if table else None,
        "map": item_map(folder, table, charts) if table else None,
        "quarters": quarters(folder, metrics, charts),
        "samples": [case(sample) for sample in metrics.get("samples") or []],
        "alignment": alignment(metrics.get("alignment") or {}),
        "perplexity": metrics.get("perplexity") or [],
        "thinking": thinking(metrics, charts),
    }
    return render("report.html", content, charts)


def render(name: str, content: Mapping[str, Any], charts: Mapping[str, Chart]) -> str:
    """Fill a page of ours.

    Args:
        name: of the template.
        content: what it speaks of; Jinja escapes it.
        charts: by the id of their place in the page.
    """
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), (PAGE / "charts.js").read_text(encoding="utf-8")]
    loader = jinja2.FileSystemLoader(PAGE)
    look = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    look.filters |= wording.FILTERS
    return look.get_template(name).render(
        **content,
        chart_data={"charts": charts, "templates": figures.templates()},
        style=Markup((PAGE / "style.css").read_text(encoding="utf-8")),  # ours, nothing in it is from data
        scripts=[Markup(script) for script in scripts],
        script_digests=[_digest(script) for script in scripts],
    )


def boards(folder: Path, metrics: dict[str, Any], charts: dict[str, Chart]) -> list[dict[str, Any]]:
    """The run beside Pop and the committed rows, once per masking; the first board is also drawn."""
    pop = _json(folder / "pop" / "metrics.json")
    found: list[dict[str, Any]] = []
    for masked in (metrics["mask_history"], not metrics["mask_history"]):
        rows = [_row(metrics, masked, metrics["model"], note="this run", own=True)]
        rows += [_row(pop, masked, "Pop", note="run beside it")] if pop else []
        rows += [row for row in _committed(metrics, masked) if not (pop and row["model"] == "Pop")]
        names = list(dict.fromkeys(name for row in rows for name in row["test"]))
        found.append({"masked": masked, "rows": rows, "names": names, "charts": []})
    for name in found[0]["names"]:
        if len(found[0]["rows"]) > 1 and name.endswith(f"@{cut(metrics)}"):
            charts[f"board-{name}"] = figures.scoreboard(found[0]["rows"], name)
            found[0]["charts"].append((name, f"board-{name}"))
    return found


def _row(metrics: Mapping[str, Any], masked: bool, label: str, note: str, own: bool = False) -> dict[str, Any]:
    suffix = "" if metrics["mask_history"] == masked else "_other_masking"
    errors = metrics.get(f"standard_error{suffix}") or {}
    return {"label": label, "own": own, "note": note, "test": metrics[f"test{suffix}"], "standard_error": errors}


def _committed(metrics: dict[str, Any], masked: bool) -> list[dict[str, Any]]:
    return [{**row, "note": f"committed {row['finished']}", "own": False} for row in comparable_rows(metrics, masked)]


def cut(metrics: dict[str, Any]) -> int:
    """Length of list to speak of: ten, or the longest the run was measured at."""
    lengths = {int(name.split("@")[1]) for name in metrics["test"] if "@" in name}
    return CUT if CUT in lengths or not lengths else max(lengths)


def headline(metrics: dict[str, Any]) -> list[str]:
    """Names of the two metrics to begin with."""
    wanted = [name for name in (f"ndcg@{cut(metrics)}", f"recall@{cut(metrics)}") if name in metrics["test"]]
    return wanted or list(metrics["test"])[:2]


def stages(folder: Path, metrics: dict[str, Any], charts: dict[str, Chart]) -> list[dict[str, Any]]:
    """What each stage cost and reached, with its curves where it logged any."""
    found = []
    for place, row in enumerate(metrics.get("stages") or []):
        log = _json(folder / row["stage"] / "log.json") or {}
        chart = f"stage-{place}"
        if log.get("curve"):
            charts[chart] = figures.curves(log["curve"])
        found.append({**row, "chart": chart if chart in charts else None})
    return found


def codes(folder: Path, metrics: dict[str, Any], table: Codes, charts: dict[str, Chart]) -> dict[str, Any]:
    """How the codes of each level are used, and the figures of ``health``."""
    facts = _json(folder / "itemic" / "facts.json") or {}
    health = metrics.get("health") or facts.get("health") or {}
    levels = []
    for level, size in enumerate(table.sizes):
        counts = Counter(table.table[:, level].tolist())
        names = [spelling(level, code) for code in range(size)]
        charts[f"codes-{level}"] = figures.code_use([counts[code] for code in range(size)], names)
        figures_of = (health.get("levels") or [])[level : level + 1]
        levels.append({"size": size, "chart": f"codes-{level}", "most": max(counts.values()), **dict(*figures_of)})
    return {"items": len(table.table), "levels": levels, "health": health, "example": _spelled(table, 1)}


def item_map(folder: Path, table: Codes, charts: dict[str, Chart]) -> dict[str, Any] | None:
    """The map of the items, if one was drawn when the codes were made."""
    path = folder / "itemic" / "map.tsv"
    if not path.is_file():
        return None
    places = read_map(path)
    ids = [int(place["item_id"]) for place in places]
    charts["map"] = figures.item_map(
        places, table.table[[i - 1 for i in ids]].tolist(), [_spelled(table, i) for i in ids]
    )
    return {"shown": len(places), "items": len(table.table), "categories": any(place["category"] for place in places)}


def _spelled(table: Codes, item: int) -> str:
    return "".join(spelling(level, code) for level, code in enumerate(table.table[item - 1].tolist()))


def quarters(folder: Path, metrics: dict[str, Any], charts: dict[str, Chart]) -> dict[str, Any] | None:
    """Accuracy by quarter of the users, beside Pop's where it was run; None where the ranks do not tell."""
    k, found = cut(metrics), []
    runs = {metrics["model"]: (folder, metrics)}
    pop = _json(folder / "pop" / "metrics.json")
    if pop:
        runs["Pop"] = (folder / "pop", pop)
    for kind in KINDS:
        groups = {
            model: parts
            for model, (place, facts) in runs.items()
            if (parts := by_quarter(place / "ranks.tsv", kind, k, facts["test"].get(f"recall@{k}")))
        }
        if metrics["model"] not in groups:
            return None
        for measure in ("recall", "ndcg"):
            charts[f"{kind}-{measure}"] = figures.by_group(groups, measure)
        found.append({"kind": kind, "groups": groups[metrics["model"]]})
    return {"k": k, "kinds": found}


def case(sample: dict[str, Any]) -> dict[str, Any]:
    """One sample user, with the place of the hit (0 = none); records of before had no rank but the titles."""
    listed = sample["recommended"]
    rank = sample.get("rank", listed.index(sample["target"]) + 1 if sample["target"] in listed else 0)
    return {**sample, "rank": rank, "hit": rank if rank <= len(listed) else 0}


def alignment(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Figures of each alignment stage side by side, and captions the model wrote from codes after the last one."""
    if not given:
        return None
    names = list(dict.fromkeys(name for row in given.values() for name in row if name != "captions"))
    return {
        "stages": list(given),
        "figures": {name: [row.get(name) for row in given.values()] for name in names},
        "captions": list(given.values())[-1].get("captions") or [],
    }


TWINS = {
    "thinking": "after thinking", "twin": "without thinking", "empty": "after an empty thought",
    "other_user": "after another user's thoughts",
}  # fmt: skip


def thinking(metrics: Mapping[str, Any], charts: dict[str, Chart]) -> dict[str, Any] | None:
    """What the instruments say of thinking, and what became of the rationales it was taught by."""
    found = metrics.get("reasoning")
    if not found:
        return None
    for name in found["p_value"]:
        charts[f"thinking-{name}"] = figures.twins({TWINS[twin]: found[twin][name] for twin in TWINS}, name)
    of_stage = {row["stage"]: row["figures"] for row in metrics["stages"]}
    taught, enhanced = of_stage.get("activation") or {}, of_stage.get("enhancement") or {}
    return {**found, "twins": TWINS, "names": list(found["thinking"]), "taught": taught, "enhanced": enhanced}


def _json(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def main(argv: list[str]) -> int:
    """Write the report of the run folder named."""
    parser = argparse.ArgumentParser("python -m recbole_think.report", description="Write report.html of a run anew.")
    parser.add_argument("run_folder", type=Path, help="of a finished run")
    given = parser.parse_args(argv)

    def work() -> int:
        sys.stdout.write(f"{write_report(given.run_folder)}\n")
        return 0

    return exit_code(work, "the report of before, if there was one, is as it was")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
