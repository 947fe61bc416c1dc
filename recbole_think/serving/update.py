"""Teach the direct model what happened since: a few steps on fresh events, a canary, and a switch at once.

    python -m recbole_think.serving.update --run <run folder> [--store <url>]      one update
    python -m recbole_think.serving.update --run <run folder> --every_s 600        one after another
    python -m recbole_think.serving.update --run <run folder> --roll_back          back to the version before
    python -m recbole_think.serving.update --run <run folder> --show               versions, and which one answers

Events of some users are never taught: the new weights answer only if they name those better than the old ones, and old
events no worse than --tolerance allows. Servers take the version up by themselves. The last line of standard output is
JSON. Exit codes: 0 done (accepted or not), 2 what was asked for cannot be done, 130 interrupted.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from recbole_think.errors import InputError, exit_code
from recbole_think.memory import keep_memory
from recbole_think.options import check
from recbole_think.quiet import quiet
from recbole_think.resume import weights_digest
from recbole_think.serving.live import Live
from recbole_think.serving.opening import split_of
from recbole_think.serving.run import FOLDER, ServedRun, default_store, require_direct
from recbole_think.serving.store import StoreError, open_store
from recbole_think.serving.updater import UpdateOptions, Updater, alone


def main(argv: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    given = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    quiet()
    return exit_code(lambda: _main(given), "the version that answers stays as it is")


def _main(given: argparse.Namespace) -> int:
    options = UpdateOptions(
        epochs=given.epochs, learning_rate=given.learning_rate, row_learning_rate=3 * given.learning_rate,
        replay=given.replay, canary=given.canary, least=given.least, tolerance=given.tolerance, most=given.most,
    )  # fmt: skip
    check(0 <= given.every_s < 1e9, f"--every_s must be 0 (once) or more seconds, got {given.every_s}")
    folder = given.live or given.run / FOLDER / "live"
    if given.show or given.roll_back:
        _look(folder, given.roll_back)
        return 0
    keep_memory()
    store = open_store(given.store or default_store(given.run))
    try:
        with redirect_stdout(sys.stderr):
            served = ServedRun(given.run, split_of(store, ""))
            require_direct(served)
            store.claim({"catalogue": served.catalogue.digest, "split": served.split})
        _update(Updater(served, store, Live(folder, weights_digest(served.model)), options), given.every_s)
    except StoreError as why:
        raise InputError(f"the store does not answer: {why}") from why
    finally:
        store.close()
    return 0


def _look(folder: Path, back: bool) -> None:
    """Say which versions there are, or go back to the one before; needs nothing of the run."""
    live = Live(folder)
    if not back:
        _say({"answers": live.current(), "versions": [live.facts(number) for number in live.numbers()]})
        return
    with alone(folder):
        before = live.roll_back()
    _say({"answers": live.current(), "before": before})


def _update(updater: Updater, every_s: float) -> None:
    """Update, once or again and again; between two updates others may."""
    while True:
        with alone(updater.live.folder), redirect_stdout(sys.stderr):
            found = updater.update()
        _say(found)
        if not every_s:
            return
        time.sleep(every_s)


def _say(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_think.serving.update", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add, usual = parser.add_argument, UpdateOptions()
    add("--run", type=Path, required=True, help="folder of a finished run with a direct model (stage recommendation)")
    add("--store", default="", help="sqlite:///<file> or redis://...; default: a file in the run folder")
    add("--live", type=Path, default=None, help="where versions are; default: a folder in the run folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--roll_back", action="store_true", help="let the version before answer again")
    what.add_argument("--show", action="store_true", help="say which versions there are")
    what.add_argument("--every_s", type=float, default=0.0, help="update again and again, so many seconds apart")
    add("--epochs", type=int, default=usual.epochs, help="times fresh events are read (default: %(default)s)")
    add(
        "--learning_rate",
        type=float,
        default=usual.learning_rate,
        help="default: %(default)s; itemic rows 3 times as much",
    )
    add("--replay", type=float, default=usual.replay, help="old windows for each new one (default: %(default)s)")
    add("--canary", type=float, default=usual.canary, help="share of users that judge (default: %(default)s)")
    add("--least", type=int, default=usual.least, help="canary events needed to judge (default: %(default)s)")
    add("--tolerance", type=float, default=usual.tolerance, help="nats old events may lose (default: %(default)s)")
    add("--most", type=int, default=usual.most, help="events of one update (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
