"""The charts of a report: plain numbers in, plotly figures as plain JSON out.

A figure carries no colours of page or text: the page lays ``templates()`` over it, light or dark. Every word from data
goes through ``plain``, since plotly reads a few HTML tags in its texts.
Knows nothing of run folders.
"""

import html
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from recbole_think.wording import span

# Okabe and Ito's colours, told apart by colour-blind eyes too; yellow and blue shifted to show on either page
COLOURS = {
    "light": ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a07d00", "#56b4e9", "#e69f00", "#6b7280"],
    "dark": ["#56b4e9", "#ff8a4c", "#2cc595", "#e8a0c8", "#f0e442", "#3d8bfd", "#e69f00", "#9aa3af"],
}
INK = {"light": ("#1b1f24", "#e3e6ea", "#ffffff"), "dark": ("#e6e8eb", "#333a43", "#1d2229")}  # text, lines, box
SCALE = {"light": ["#eef4fa", "#7db7dd", "#0072b2", "#08305a"], "dark": ["#1d2a38", "#1f6fa8", "#56b4e9", "#e3f3fd"]}
WHEEL = ["#4477aa", "#66ccee", "#2aa860", "#ccbb44", "#ee6677", "#bb55a0"]  # Paul Tol's bright ones, on either page
SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "triangle-down", "x"]
GREY = "#8b95a1"
MOST_CATEGORIES = 7
STEEP = 3  # a curve that falls to a third is drawn on a log scale, or its end would look flat
Row = Mapping[str, Any]


def plain(text: Any) -> str:
    """Return text that plotly shows as it is written, tags and all."""
    return html.escape(str(text), quote=False)


def as_json(figure: go.Figure) -> dict[str, Any]:
    """Return a figure as plain data; what is not a number becomes null."""
    figure.update_layout(template=None)
    return json.loads(figure.to_json())


def templates() -> dict[str, dict]:
    """Return the two looks of a chart, by colour scheme."""
    return {scheme: _template(scheme) for scheme in COLOURS}


def _template(scheme: str) -> dict:
    ink, line, box = INK[scheme]
    axis = {"gridcolor": line, "linecolor": line, "zeroline": False, "automargin": True, "title": {"standoff": 8}}
    share = [number / (len(SCALE[scheme]) - 1) for number in range(len(SCALE[scheme]))]
    layout = {
        "colorway": COLOURS[scheme],
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": ink},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": axis,
        "yaxis": axis,
        "hoverlabel": {"bgcolor": box, "bordercolor": line, "font": {"color": ink}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": -0.12, "yanchor": "top"},
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "bargap": 0.35,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": line, "activecolor": ink},
    }
    heatmap = {"colorscale": list(zip(share, SCALE[scheme], strict=True)), "colorbar": {"outlinewidth": 0}}
    bar = {"error_x": {"color": ink}, "error_y": {"color": ink}, "marker": {"line": {"width": 0}}}
    return {"layout": layout, "data": {"heatmap": [heatmap], "bar": [bar]}}


def scoreboard(rows: Sequence[Row], metric: str) -> dict:
    """Bars with standard errors, best on top, the run itself in colour.

    Args:
        rows: ``label``, ``own`` (whether it is the run), ``test`` and ``standard_error``.
        metric: which of the metrics.
    """
    ranked = sorted((row for row in rows if metric in row["test"]), key=lambda row: row["test"][metric])
    figure = go.Figure()
    for own in (True, False):
        part = [row for row in ranked if row["own"] is own]
        figure.add_bar(
            x=[row["test"][metric] for row in part],
            y=[plain(row["label"]) for row in part],
            error_x={"type": "data", "array": [row["standard_error"].get(metric) for row in part], "thickness": 1.5},
            orientation="h",
            marker={} if own else {"color": GREY},
            hovertemplate="%{y}: %{x:.4f} ± %{error_x.array:.4f}<extra></extra>",
        )
    names = [plain(row["label"]) for row in ranked]
    figure.update_yaxes(categoryorder="array", categoryarray=names, type="category", ticklabelstandoff=6)
    figure.update_xaxes(rangemode="tozero", nticks=5)
    figure.update_layout(showlegend=False, barmode="overlay", height=60 + 34 * len(ranked), dragmode=False)
    return as_json(figure)


def twins(values: Mapping[str, float], metric: str) -> dict:
    """Bars of one metric under each way of answering, the first one in colour, in the given order.

    Args:
        values: metric by what is shown beside the bar.
        metric: its name.
    """
    names, figure = [plain(name) for name in values], go.Figure()
    for number, (name, value) in enumerate(values.items()):
        look = {} if number == 0 else {"color": GREY}
        figure.add_bar(x=[value], y=[plain(name)], orientation="h", marker=look,
                       hovertemplate=f"%{{y}}: {plain(metric)} %{{x:.4f}}<extra></extra>")  # fmt: skip
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], type="category", ticklabelstandoff=6)
    figure.update_xaxes(rangemode="tozero", nticks=5)
    figure.update_layout(showlegend=False, barmode="overlay", height=60 + 34 * len(names), dragmode=False)
    return as_json(figure)


def curves(rows: Sequence[Row]) -> dict:
    """What a stage logged by step, one panel per quantity (loss, valid, ...)."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    figure = make_subplots(rows=len(names), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for number, name in enumerate(names, 1):
        points = [(row["step"], row[name]) for row in rows if name in row]
        few, values = len(points) <= 30, [value for _, value in points]
        figure.add_scatter(
            x=[step for step, _ in points],
            y=values,
            mode="lines+markers" if few else "lines",
            name=plain(name),
            hovertemplate=f"step %{{x:,}}: {plain(name)} %{{y:.4f}}<extra></extra>",
            row=number,
            col=1,
        )
        steep = min(values) > 0 and max(values) > STEEP * min(values)
        title = ("validation" if name == "valid" else name) + (" (log scale)" if steep else "")
        figure.update_yaxes(title_text=plain(title), type="log" if steep else "linear", nticks=5, row=number, col=1)
    figure.update_xaxes(title_text="step", row=len(names), col=1)
    figure.update_layout(showlegend=False, height=60 + 190 * len(names), dragmode=False)
    return as_json(figure)


def code_use(counts: Sequence[int], names: Sequence[str]) -> dict:
    """How many items carry each code of a level, the codes laid out line by line in a square."""
    side = math.ceil(math.sqrt(len(counts)))
    pad = [None] * (side * side - len(counts))
    cells = [*zip(counts, names, strict=True), *((None, "") for _ in pad)]
    lines = [cells[start : start + side] for start in range(0, side * side, side)]
    figure = go.Figure(
        go.Heatmap(
            z=[[count for count, _ in line] for line in lines],
            customdata=[[plain(name) for _, name in line] for line in lines],
            hovertemplate="%{customdata}: %{z} items<extra></extra>",
            hoverongaps=False,
            zmin=0,
            zmax=max(counts),
            xgap=1.5,
            ygap=1.5,
            colorbar={"thickness": 10, "title": {"text": "items", "side": "right"}},
        )
    )
    figure.update_yaxes(visible=False, autorange="reversed", scaleanchor="x", constrain="domain")
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_layout(height=300, dragmode=False)
    return as_json(figure)


def item_map(places: Sequence[Row], codes: Sequence[Sequence[int]], spelled: Sequence[str]) -> dict:
    """Items in the plane: one trace per category (``meta`` "category"), and one by first code (``meta`` "code").

    The latter is shown only when asked for, or where there are no categories.

    Args:
        places: ``title``, ``category``, ``x`` and ``y`` per item.
        codes: the codes of each.
        spelled: the itemic tokens of each.
    """
    common = Counter(place["category"] for place in places if place["category"]).most_common(MOST_CATEGORIES)
    names = [name for name, _ in common]
    figure = go.Figure()
    for number, name in enumerate([*names, None]):
        part = [
            row
            for row, place in enumerate(places)
            if (place["category"] if place["category"] in names else None) == name
        ]
        look = {"symbol": SYMBOLS[number]} if name else {"symbol": "circle", "color": GREY, "opacity": 0.45}
        if part and names:
            figure.add_scatter(
                **_points(part, places, spelled),
                name=plain(name or "others"),
                meta="category",
                marker={"size": 6, **look},
            )
    first = [code[0] for code in codes]
    look = {"color": first, "colorscale": WHEEL, "symbol": [SYMBOLS[code % len(SYMBOLS)] for code in first], "size": 6}
    every = _points(range(len(places)), places, spelled)
    figure.add_scatter(**every, name="first code", meta="code", marker=look, visible=not names, showlegend=False)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(height=620, hovermode="closest", legend={"y": 0, "itemsizing": "constant"}, dragmode="pan")
    return as_json(figure)


def _points(rows: Sequence[int], places: Sequence[Row], spelled: Sequence[str]) -> dict[str, Any]:
    return {
        "x": [float(places[row]["x"]) for row in rows],
        "y": [float(places[row]["y"]) for row in rows],
        "mode": "markers",
        "customdata": [
            [plain(places[row]["title"]), plain(places[row]["category"]), plain(spelled[row])] for row in rows
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
    }


def by_group(groups: Mapping[str, Sequence[Any]], measure: str) -> dict:
    """Accuracy by quarter of the users, one colour per model.

    Args:
        groups: per model the groups of ``quartiles.by_quarter``.
        measure: "recall" or "ndcg".
    """
    figure = go.Figure()
    for number, (model, parts) in enumerate(groups.items()):
        figure.add_bar(
            x=[span(part).replace(" to ", "–") for part in parts],
            y=[getattr(part, measure)[0] for part in parts],
            error_y={"type": "data", "array": [getattr(part, measure)[1] for part in parts], "thickness": 1.5},
            customdata=[part.users for part in parts],
            name=plain(model),
            marker={} if number == 0 else {"color": GREY},
            hovertemplate="%{x}: %{y:.4f} ± %{error_y.array:.4f}, %{customdata:,} users<extra></extra>",
        )
    figure.update_xaxes(type="category")
    figure.update_yaxes(rangemode="tozero", nticks=6)
    figure.update_layout(barmode="group", height=280, showlegend=len(groups) > 1, dragmode=False)
    return as_json(figure)
