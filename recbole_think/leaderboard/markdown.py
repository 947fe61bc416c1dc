"""A leaderboard as Markdown: ``<name>.md`` beside its CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recbole_think.leaderboard.standings import METRIC, SHOWN, Standing, Standings
from recbole_think.wording import duration, spoken

RULES = (
    "The whole catalogue is ranked for every user; a hit is the item itself, never a string of codes.",
    "Leave one out: a user's last event is the test item, the one before it chose the checkpoint; equal times stay in "
    "the order of the file.",
    "Generative rows name items by beams in an exact prefix trie; answers that are no item: 0, counted.",
    "A row that thinks has a twin with the same weights, prompt and number of candidates that does not.",
    "± is the standard error over users; of several seeds the mean is shown, and a second ± over seeds.",
    "Seconds compare between rows of one machine alone.",
    "Tuning is by validation alone; every try is on record (`docs/board.md` says where, and which rows had none).",
)  # fmt: skip


@dataclass(frozen=True)
class Content:
    """What a leaderboard's page tells."""

    title: str
    tables: Sequence[Standings]  # how rows stand, by masking
    failed: Sequence[Mapping[str, str]]  # row, reason and log of those that failed
    missing: Sequence[str]  # rows not made yet
    reported: Sequence[Mapping[str, str]]  # what others published


def markdown(page: Content) -> str:
    """The whole page."""
    parts = [f"# {page.title}", "\n".join(f"- {rule}" for rule in RULES)]
    for table in page.tables:
        parts += [f"## Items met before {'cannot' if table.masked else 'can'} be recommended", _table(table.rows)]
    if page.failed:
        told = [f"- **{one['row']}**: {one['reason']} (log: `{one['log']}`)" for one in page.failed]
        parts += ["## Failed", "\n".join(told)]
    if page.missing:
        parts += ["## Not made yet", "; ".join(page.missing)]
    if page.reported:
        parts += ["## Published by others, by their own rules", _lines(list(page.reported[0]), page.reported)]
    return "\n\n".join(parts) + "\n"


def _lines(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    cells = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _table(rows: Sequence[Standing]) -> str:
    head = ["row", "seeds", *map(spoken, SHOWN), "95 % of NDCG@10", "training", "test", "parameters", "machine"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        values = [_value(row, name) for name in SHOWN]
        low, high = row.intervals[METRIC]
        costs = [_duration(row.cost("seconds_train")), _duration(row.cost("seconds_eval"))]
        size = row.cost("parameters")
        cells = [
            row.row,
            str(len(row.seeds)),
            *values,
            f"{low:.4f} to {high:.4f}",
            *costs,
            f"{size or 0:,.0f}",
            row.machine,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _value(row: Standing, metric: str) -> str:
    values = row.users[metric]
    error, of_seeds = values.std(ddof=1) / len(values) ** 0.5, row.seed_error(metric)
    return f"{row.mean(metric):.4f} ± {error:.4f}" + ("" if of_seeds is None else f" ± {of_seeds:.4f}")


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)
