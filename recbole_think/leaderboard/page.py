"""A leaderboard as files people read: ``<name>.md`` and ``<name>.html`` beside its CSV, from CSV and ranks alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_think.artifacts import write_text
from recbole_think.leaderboard import charts
from recbole_think.leaderboard.board import Board
from recbole_think.leaderboard.markdown import RULES, Content, markdown
from recbole_think.leaderboard.reported import reported
from recbole_think.leaderboard.standings import METRIC, SHOWN, standings
from recbole_think.report import render


def write_pages(board: Board, path: Path, failed: Sequence[Mapping[str, str]], missing: Sequence[str]) -> list[Path]:
    """Write both files.

    Args:
        board: the leaderboard.
        path: CSV of its results.
        failed: row, reason and log of those that failed.
        missing: rows not made yet.
    """
    title = board.title + (" (quick: fewer rows and epochs, not results)" if board.quick else "")
    tables = [standings(path, masked, board.rows) for masked in (True, False)]
    content = Content(title, tables, failed, missing, reported(board.dataset))
    files = {".md": markdown(content), ".html": html(content)}
    for suffix, text in files.items():
        write_text(path.with_suffix(suffix), text)
    return [path, *(path.with_suffix(suffix) for suffix in files)]


def html(content: Content) -> str:
    """The page as HTML."""
    drawn: dict[str, Any] = {}
    for table in content.tables:
        if not table.rows or table.about is None:
            continue
        name = "masked" if table.masked else "free"
        drawn |= {
            f"{name}-ranking": charts.ranking(table.rows),
            f"{name}-training": charts.cost(table.rows, "seconds_train", "training"),
            f"{name}-answers": charts.cost(table.rows, "seconds_eval", "lists of all test users"),
            f"{name}-history": charts.by_quarter(table.rows, table.about.history_length),
            f"{name}-target": charts.by_quarter(table.rows, table.about.target_count),
            f"{name}-overlap": charts.overlap(table),
        }
    return render("board.html", {**vars(content), "rules": RULES, "shown": SHOWN, "metric": METRIC}, drawn)
