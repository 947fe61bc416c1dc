"""A leaderboard as Markdown: ``<name>.md`` beside its CSV."""

from collections.abc import Mapping, Sequence

from recbole_think.leaderboard.standings import METRIC, SHOWN, Standing, Standings
from recbole_think.wording import duration, spoken

RULES = (
    "The whole catalogue is ranked for every user; a hit is the item itself, never a string of codes.",
    "Leave one out: a user's last event is the test item, the one before it chose the checkpoint; equal times stay in "
    "the order of the file.",
    "Generative rows name items by beams in an exact prefix trie; answers that are no item: 0, counted.",
    "A row that thinks has a twin with the same weights, prompt and number of candidates that does not.",
    "± is the standard error over users; of several seeds the mean is shown, and a second ± over seeds.",
    "Every kind of model was tuned by the same small number of tries on validation (`baselines/*-tuning.yaml`).",
)  # fmt: skip


def markdown(
    title: str, tables: Sequence[Standings], failed: Sequence[Mapping[str, str]], missing: Sequence[str]
) -> str:
    """The whole page.

    Args:
        title: of the board.
        tables: how rows stand, by masking.
        failed: row, reason and log of those that failed.
        missing: rows not made yet.
    """
    parts = [f"# {title}", "\n".join(f"- {rule}" for rule in RULES)]
    for table in tables:
        parts += [f"## Items met before {'cannot' if table.masked else 'can'} be recommended", _table(table.rows)]
    if failed:
        parts += [
            "## Failed",
            "\n".join(f"- **{one['row']}**: {one['reason']} (log: `{one['log']}`)" for one in failed),
        ]
    if missing:
        parts += ["## Not made yet", ", ".join(missing)]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Standing]) -> str:
    head = ["row", "seeds", *map(spoken, SHOWN), "95 % of NDCG@10", "training", "test", "parameters"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        values = [_value(row, name) for name in SHOWN]
        low, high = row.intervals[METRIC]
        costs = [_duration(row.cost("seconds_train")), _duration(row.cost("seconds_eval"))]
        size = row.cost("parameters")
        cells = [row.row, str(len(row.seeds)), *values, f"{low:.4f} to {high:.4f}", *costs, f"{size or 0:,.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _value(row: Standing, metric: str) -> str:
    values = row.users[metric]
    error, of_seeds = values.std(ddof=1) / len(values) ** 0.5, row.seed_error(metric)
    return f"{row.mean(metric):.4f} ± {error:.4f}" + ("" if of_seeds is None else f" ± {of_seeds:.4f}")


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)
