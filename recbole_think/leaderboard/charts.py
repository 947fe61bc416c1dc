"""The charts of a leaderboard's page, as plain JSON for plotly; see ``figures.py`` for what is common to all charts."""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from recbole_think.catalog import family
from recbole_think.figures import GREY, SYMBOLS, as_json, plain
from recbole_think.leaderboard.standings import METRIC, K, Standing, Standings
from recbole_think.wording import duration, spoken

OURS = "OneRecThink"
Box = tuple[float, float, float, float]  # left, bottom, right, top
LABEL_PLACES = ("top center", "bottom center", "middle right", "middle left")  # plotly's words, the best first
# pixels: of the area a chart of costs draws in, of half a point, of a letter of a name, names may stick out by
CHART, DOT, LETTER, MARGIN = (420, 330), 5.0, (6.4, 13.0), 30.0
TICKS = ((1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"), (36000, "10 h"))


def ranking(rows: Sequence[Standing]) -> dict:
    """NDCG of every row with its 95 % interval, best on top; ours in colour."""
    figure = go.Figure()
    for own in (True, False):
        part = [row for row in rows if (family(row.model) == OURS) is own]
        means = [row.mean(METRIC) for row in part]
        spans = [row.intervals[METRIC] for row in part]
        figure.add_scatter(
            x=means,
            y=[plain(row.row) for row in part],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - mean for mean, (_, high) in zip(means, spans, strict=True)],
                "arrayminus": [mean - low for mean, (low, _) in zip(means, spans, strict=True)],
                "thickness": 2,
            },
            mode="markers",
            marker={"size": 10} | ({} if own else {"color": GREY}),
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
    names = [plain(row.row) for row in reversed(rows)]
    figure.update_yaxes(categoryorder="array", categoryarray=names, type="category", ticklabelstandoff=6)
    figure.update_xaxes(rangemode="tozero", nticks=6, title_text=spoken(METRIC))
    figure.update_layout(showlegend=False, height=90 + 28 * len(rows), dragmode=False)
    return as_json(figure)


def cost(rows: Sequence[Standing], column: str, title: str) -> dict:
    """NDCG against what a row costs, on a log scale; a name that would lie on another one is told at a touch alone.

    Every machine has a shape of its own, since seconds compare within one alone.

    Args:
        rows: standings.
        column: seconds of the CSV.
        title: of the axis.
    """
    figure = go.Figure()
    known = [(row, max(seconds, 1.0)) for row in rows if (seconds := row.cost(column)) is not None]
    known.sort(
        key=lambda one: (family(one[0].model) != OURS, -one[0].mean(METRIC))
    )  # in doubt ours, and the best, are named
    ends = [math.log10(seconds) for _, seconds in known] or [0.0]
    across, top = (min(ends) - 0.6, max(ends) + 0.6), max((row.mean(METRIC) for row, _ in known), default=0.0) or 1.0
    found = label_places(
        [(math.log10(seconds) - across[0]) / (across[1] - across[0]) for _, seconds in known],
        [row.mean(METRIC) / top for row, _ in known],
        [plain(row.row) for row, _ in known],
    )
    machines = list(dict.fromkeys(row.machine for row, _ in known))
    beside = {row.row: place for (row, _), place in zip(known, found, strict=True)}
    for own in (True, False):
        part = [(row, seconds) for row, seconds in known if (family(row.model) == OURS) is own]
        figure.add_scatter(
            x=[seconds for _, seconds in part],
            y=[row.mean(METRIC) for row, _ in part],
            customdata=[[plain(row.row), duration(seconds), plain(row.machine)] for row, seconds in part],
            text=[plain(row.row) if beside[row.row] else "" for row, _ in part],
            mode="markers+text",
            textposition=[beside[row.row] or LABEL_PLACES[0] for row, _ in part],
            textfont={"size": 11},
            cliponaxis=False,
            marker={"size": 10, "symbol": [SYMBOLS[machines.index(row.machine) % len(SYMBOLS)] for row, _ in part]}
            | ({} if own else {"color": GREY}),
            hovertemplate="%{customdata[0]}: %{y:.4f} in %{customdata[1]} on %{customdata[2]}<extra></extra>",
        )
    figure.update_xaxes(
        type="log", title_text=title, range=list(across), tickvals=[value for value, _ in TICKS],
        ticktext=[text for _, text in TICKS],
    )  # fmt: skip
    figure.update_yaxes(rangemode="tozero", nticks=6, title_text=spoken(METRIC))
    figure.update_layout(showlegend=False, height=420, dragmode=False)
    return as_json(figure)


def label_places(across: Sequence[float], up: Sequence[float], names: Sequence[str]) -> list[str]:
    """Where the name of each point of a chart may stand without lying on a point or a name before it; "" = nowhere.

    Args:
        across: places of the points from left (0) to right (1).
        up: the same from the bottom (0) to the top (1).
        names: in the order in which they are given their places.
    """
    wide, high = CHART
    points = [(x * wide, y * high) for x, y in zip(across, up, strict=True)]
    taken = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in points]
    found = []
    for (x, y), name in zip(points, names, strict=True):
        width, beside, above = LETTER[0] * len(name), DOT + 2, DOT + LETTER[1] / 2
        centres = (x, y + above), (x, y - above), (x + beside + width / 2, y), (x - beside - width / 2, y)
        boxes = [(a - width / 2, b - LETTER[1] / 2, a + width / 2, b + LETTER[1] / 2) for a, b in centres]
        own = (x - DOT, y - DOT, x + DOT, y + DOT)
        free = [
            place
            for place, box in zip(LABEL_PLACES, boxes, strict=True)
            if -MARGIN <= box[0]
            and box[2] <= wide + MARGIN
            and not any(_overlap(box, one) for one in taken if one != own)
        ]
        found.append(free[0] if free else "")
        if free:
            taken.append(boxes[LABEL_PLACES.index(free[0])])
    return found


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def by_quarter(rows: Sequence[Standing], of: np.ndarray) -> dict:
    """NDCG by quarter of the users, a line for each row; the first few are shown, the others at a click.

    Args:
        rows: standings, best first.
        of: int64 [U], what users are divided by.
    """
    figure = go.Figure()
    for number, row in enumerate(rows):
        parts = row.by_quarter(of)
        figure.add_scatter(
            x=[f"{low:,}" if low == high else f"{low:,}–{high:,}" for low, high, *_ in parts],
            y=[mean for *_, mean, _ in parts],
            error_y={"type": "data", "array": [error for *_, error in parts], "thickness": 1},
            customdata=[users for _, _, users, *_ in parts],
            name=plain(row.row),
            mode="lines+markers",
            marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
            visible=True if number < len(SYMBOLS) else "legendonly",
            hovertemplate="%{x}: %{y:.4f} ± %{error_y.array:.4f}, %{customdata:,} users",
        )
    figure.update_xaxes(type="category")
    figure.update_yaxes(rangemode="tozero", nticks=6, title_text=spoken(METRIC))
    figure.update_layout(height=400 + 12 * len(rows), dragmode=False)
    return as_json(figure)


def overlap(found: Standings) -> dict:
    """Of the users a row serves (line), the share the other one (column) serves as well."""
    names = [plain(row.row) for row in found.rows]
    figure = go.Figure(
        go.Heatmap(
            z=found.overlap().round(3).tolist(), x=names, y=names, zmin=0, zmax=1, xgap=1.5, ygap=1.5,
            hovertemplate=f"of the users with a hit among {K} by %{{y}}, %{{z:.0%}} have one by %{{x}}<extra></extra>",
            colorbar={"thickness": 10, "tickformat": ".0%"},
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category", tickangle=-60)
    figure.update_layout(height=220 + 24 * len(names), dragmode=False)
    return as_json(figure)
