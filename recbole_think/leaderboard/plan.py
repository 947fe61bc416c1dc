"""What a leaderboard costs: minutes its YAML expects, and those measured where a row has been made."""

from collections.abc import Sequence
from pathlib import Path

from recbole_think.leaderboard.board import Board, Job
from recbole_think.leaderboard.rows import read_lines


def plan(board: Board, results: Path, missing: Sequence[Job]) -> str:
    """A table with a line per row and seed, and the hours in all."""
    measured = {
        (line["row"], line["seed"]): (float(line["seconds_train"]) + float(line["seconds_eval"])) / 60
        for line in read_lines(results)
        if line["seconds_train"] and line["seconds_eval"]
    }
    width = max(len(job.row) for job in board.jobs) + 2
    lines = [f"{'row':<{width}}{'seed':>6}{'expected':>10}{'measured':>10}   minutes"]
    for job in board.jobs:
        took = measured.get((job.row, str(job.seed)))
        note = "missing" if job in missing else ""
        lines.append(
            f"{job.row:<{width}}{job.seed:>6}{job.minutes:>10.0f}{'' if took is None else f'{took:.1f}':>10}   {note}"
        )
    left = sum(job.minutes for job in missing) / 60
    lines += ["", f"expected in all {sum(job.minutes for job in board.jobs) / 60:.1f} h, of it missing {left:.1f} h"]
    return "\n".join(lines)
