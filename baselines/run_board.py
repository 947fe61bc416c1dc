"""Make a leaderboard: python baselines/run_board.py baselines/beauty.yaml --data_path=<folder that holds beauty/>."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent / "run_recbole_think.py"


def main(argv: Sequence[str]) -> int:
    """Make what is missing of a leaderboard; return 0, or 1 where a row failed, or 2 where that cannot be tried."""
    from recbole_think.errors import InputError

    try:
        return _run(_parser().parse_args(argv))
    except InputError as why:
        sys.stderr.write(f"error: {why}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where it was\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python baselines/run_board.py", description=(__doc__ or "").split(":")[0])
    parser.add_argument("board", type=Path, help="its YAML (recbole_think/leaderboard/board.py explains the keys)")
    parser.add_argument("--data_path", default="", help="where <dataset>/<dataset>.inter lies (default: as for a run)")
    parser.add_argument("--rows", default="", help="names of rows, separated by commas (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side; each gets its share of the cores")
    parser.add_argument("--folder", type=Path, default=Path("runs/board"), help="of run folders and logs")
    parser.add_argument("--results", type=Path, help="folder of results (default: baselines/results)")
    parser.add_argument("--quick", action="store_true", help="fewer rows and epochs, into results of their own")
    parser.add_argument(
        "--plan", action="store_true", help="print what each row costs, and what is missing; run nothing"
    )
    parser.add_argument("--show", action="store_true", help="write table and page from the results; run nothing")
    return parser


def _run(given: argparse.Namespace) -> int:
    from recbole_think.errors import InputError
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
        left = [f"{job.row}, seed {job.seed}" for job in missing]
        return write_pages(board, results, failures(folder, missing), left)

    runner = Runner(board, results, folder, PROGRAM, given.jobs, words, write)
    if given.plan:
        sys.stdout.write(plan(board, results, runner.missing(wanted)) + "\n")
        return 0
    failed = {} if given.show else runner.run(wanted)
    sys.stdout.write("".join(f"{path}\n" for path in write()))
    for job, reason in failed.items():
        sys.stderr.write(f"{job.row}, seed {job.seed}, failed: {reason} (log: {folder / job.name}.log)\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
