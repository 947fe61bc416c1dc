"""``python -m recbole_think.leaderboard``: add a finished run to the committed rows, or compare two rows."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_think.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recbole_think.leaderboard", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="put the row of a finished run into baselines/results")
    adding.add_argument("run_folder", type=Path)
    adding.add_argument("--row", default="", help="what it is called (default: the model's name)")
    adding.add_argument("--board", default="", help="name of the leaderboard (default: the data set's)")
    comparing = commands.add_parser("compare", help="paired test over users: which is better, by how much, for whom")
    comparing.add_argument("one", help="a row of the leaderboard, or a run folder")
    comparing.add_argument("other", help="the same")
    comparing.add_argument("--board", default="beauty", help="name of the leaderboard (default: beauty)")
    comparing.add_argument("--masked", action=argparse.BooleanOptionalAction, default=True,
                           help="items met before cannot be recommended (default: yes)")  # fmt: skip
    given = parser.parse_args(argv)
    try:
        sys.stdout.write(f"{_add(given) if given.command == 'add' else _compare(given)}\n")
    except InputError as why:
        sys.stderr.write(f"error: {why}\n")
        return 2
    return 0


def _add(given: argparse.Namespace) -> str:
    from recbole_think.leaderboard.rows import add, results_path

    return str(add(given.run_folder, given.row, results=results_path(given.board) if given.board else None))


def _compare(given: argparse.Namespace) -> str:
    from recbole_think.leaderboard.compare import compare, read_side

    return compare(*(read_side(name, given.board, given.masked) for name in (given.one, given.other)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
