"""``python -m recbole_think.leaderboard``: make a leaderboard, add a finished run to one, compare two of its rows."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_think.errors import InputError, exit_code


def main(argv: Sequence[str]) -> int:
    """Run the command line; return 0, 1 where a row failed, 2 where what was asked for cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m recbole_think.leaderboard", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _running(commands.add_parser("run", help="make what is missing of a leaderboard; also baselines/run_board.py"))
    _adding(commands.add_parser("add", help="put the row of a finished run into baselines/results"))
    _comparing(commands.add_parser("compare", help="paired test over users: which is better, by how much, for whom"))
    given = parser.parse_args(argv)
    work = {"run": _run, "add": _add, "compare": _compare}[given.command]
    return exit_code(lambda: work(given), "the same command goes on where it was")


def _running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("board", type=Path, help="its YAML (docs/board.md and leaderboard/board.py explain the keys)")
    parser.add_argument("--data_path", default="", help="where <dataset>/<dataset>.inter lies (default: as for a run)")
    parser.add_argument("--rows", default="", help="names of rows, separated by commas (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side; each gets its share of the cores")
    parser.add_argument("--folder", type=Path, default=Path("runs/board"), help="of run folders and logs")
    parser.add_argument("--results", type=Path, help="folder of results (default: baselines/results)")
    parser.add_argument("--quick", action="store_true", help="fewer rows and epochs, into results of their own")
    parser.add_argument("--plan", action="store_true", help="print what rows cost and which are missing; run nothing")
    parser.add_argument("--show", action="store_true", help="write table and page from the results; run nothing")


def _adding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--row", default="", help="what it is called (default: the model's name)")
    parser.add_argument("--board", default="", help="name of the leaderboard (default: the data set's)")


def _comparing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("one", help="a row of the leaderboard, or a run folder")
    parser.add_argument("other", help="the same")
    parser.add_argument("--board", default="beauty", help="name of the leaderboard (default: beauty)")
    parser.add_argument("--masked", action=argparse.BooleanOptionalAction, default=True,
                        help="items met before cannot be recommended (default: yes)")  # fmt: skip


def _run(given: argparse.Namespace) -> int:
    from recbole_think.leaderboard.board import read_board
    from recbole_think.leaderboard.page import write_pages
    from recbole_think.leaderboard.plan import plan
    from recbole_think.leaderboard.running import Runner, failures
    from recbole_think.paths import results_dir

    board = read_board(given.board, given.quick)
    wanted = [name.strip() for name in given.rows.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in board.rows]
    if unknown:
        raise InputError(f"--rows: the board has no row {unknown[0]!r}; rows: {', '.join(board.rows)}")
    if given.jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {given.jobs}")
    words = [f"--data_path={Path(given.data_path).resolve()}"] if given.data_path else []
    folder, results = given.folder.resolve() / board.name, (given.results or results_dir()) / f"{board.name}.csv"

    def write() -> list[Path]:
        missing = runner.missing()
        return write_pages(
            board, results, failures(folder, missing), [f"{job.row}, seed {job.seed}" for job in missing]
        )

    runner = Runner(board, results, folder, given.jobs, words, write)
    if given.plan:
        sys.stdout.write(plan(board, results, runner.missing(wanted)) + "\n")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the rows at work, as Ctrl-C does
    failed = {} if given.show else runner.run(wanted)
    sys.stdout.write("".join(f"{path}\n" for path in write()))
    for job, reason in failed.items():
        sys.stderr.write(f"{job.row}, seed {job.seed}, failed: {reason} (log: {folder / job.name}.log)\n")
    return 1 if failed else 0


def _add(given: argparse.Namespace) -> int:
    from recbole_think.leaderboard.rows import add, results_path

    results = results_path(given.board) if given.board else None
    sys.stdout.write(f"{add(given.run_folder, given.row, results=results)}\n")
    return 0


def _compare(given: argparse.Namespace) -> int:
    from recbole_think.leaderboard.compare import compare, read_side

    one, other = (read_side(name, given.board, given.masked) for name in (given.one, given.other))
    sys.stdout.write(f"{compare(one, other)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
