"""Think ahead: thoughts about every user of a finished run, and where they lead, into the store that answers read.

    python -m recbole_think.serving.think_ahead --run <run folder> [--store <url>] [--split=all]
                                                [--shard 0/4] [--thoughts 5] [--prefixes 20] [--depth 2]

Run it again at any time: after a kill it goes on; once done, it thinks about those alone of whom something is new. With
other weights or options it makes a version beside the old one, which is read until the new one is whole. The last line
of standard output is JSON. Exit codes: 0 done, 2 what was asked for cannot be done, 130 interrupted.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from tqdm import tqdm

from recbole_think.errors import InputError, exit_code
from recbole_think.memory import keep_memory
from recbole_think.options import check
from recbole_think.quiet import quiet
from recbole_think.reasoning import thinks
from recbole_think.resume import weights_digest
from recbole_think.serving.ahead import AheadOptions, Thinker, stamp
from recbole_think.serving.run import SPLITS, ServedRun, default_store
from recbole_think.serving.store import Store, StoreError, Version, open_store
from recbole_think.shards import shards as cut

TOGETHER = 64  # users at least that are kept with one write: what a kill may cost
LOOKED_AT = 2048  # users whose stamps are asked for with one question


def main(argv: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    given = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    quiet()
    return exit_code(lambda: _main(given), "the same command goes on where it was")


def _main(given: argparse.Namespace) -> int:
    options = AheadOptions(given.thoughts, given.prefixes, given.depth)
    shard, shards = read_shard(given.shard)
    keep_memory()
    try:
        store = open_store(given.store or default_store(given.run))
        try:
            with store.alone(shard, shards), redirect_stdout(sys.stderr):
                served = ServedRun(given.run, given.split)
                done = think_ahead(served, store, options, shard, shards)
        finally:
            store.close()
    except FloatingPointError as why:
        raise InputError(f"{given.run} cannot think: {why}") from why
    except StoreError as why:
        raise InputError(f"the store is gone ({why}); the same command goes on where it was") from why
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


def think_ahead(
    served: ServedRun, store: Store, options: AheadOptions, shard: int = 0, shards: int = 1, show_progress: bool = True
) -> dict[str, Any]:
    """Think about everybody of a shard of whom nothing is known yet, or no longer.

    Args:
        served: a run that thinks.
        store: where thoughts go; nobody else may make this shard (``Store.alone``).
        options: how much is thought.
        shard: which, from 0.
        shards: how many there are.
        show_progress: draw a bar with the time left.

    Returns:
        ``version`` that was filled, ``users`` of the shard, of them ``thought`` about now, ``seconds``, and whether the
        version is ``current``.

    Raises:
        InputError: the run does not think, or the store is of another catalogue.
        StoreError: the store cannot be reached any more.
    """
    if not thinks(served.model):
        raise InputError(f"{served.folder} does not think; it takes OneRecThink with stage activation")
    began = time.monotonic()
    store.claim({"catalogue": served.catalogue.digest, "split": served.split})
    thinker = Thinker(served.model, options, served.masked)
    version = _version(store, _facts(served, thinker, options), shards)
    users = of_shard({*_known(served), *store.active()}, shard, shards)
    waiting = list(_waiting(served, store, version, users))
    lengths = thinker.lengths(np.array([len(history) for _, history in waiting], dtype=np.int64)).tolist()
    with tqdm(total=len(users), initial=len(users) - len(waiting), desc="thinking ahead", unit="user",
              disable=not show_progress) as bar:  # fmt: skip
        for rows in cut(lengths, thinker.decode.tokens_per_batch, TOGETHER):
            some = [waiting[row] for row in rows]
            entries = thinker.entries([history for _, history in some])
            store.put(version.number, {user: entry for (user, _), entry in zip(some, entries, strict=True)})
            bar.update(len(rows))
    current = store.current()
    is_current = (current is not None and current.number == version.number) or store.finish(version.number, shard)
    store.sweep()
    told = {"version": version.number, "users": len(users), "thought": len(waiting)}
    return {**told, "seconds": round(time.monotonic() - began, 1), "current": is_current}


def _facts(served: ServedRun, thinker: Thinker, options: AheadOptions) -> dict[str, Any]:
    """What thoughts depend on besides what a user did."""
    return {
        **asdict(options),
        "weights": weights_digest(served.model),
        "decode": asdict(thinker.decode),
        "masked": served.masked,
        "seed": served.model.seed,
    }


def _version(store: Store, facts: dict[str, Any], shards: int) -> Version:
    """The current version where it was made like this, else one beside it."""
    current = store.current()
    if current is not None and current.facts == json.loads(json.dumps(facts)):
        return current
    return store.begin(facts, shards)


def _known(served: ServedRun) -> Iterator[str]:
    return (user for user in served.users if len(served.history(user)))


def of_shard(users: set[str], shard: int, shards: int) -> list[str]:
    """Users of a shard, in an order that hangs on nothing but their names."""
    return sorted(user for user in users if crc32(user.encode()) % shards == shard)


def _waiting(
    served: ServedRun, store: Store, version: Version, users: Sequence[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Users of whom something else was thought, or nothing, and their histories."""
    for begin in range(0, len(users), LOOKED_AT):
        some = users[begin : begin + LOOKED_AT]
        events, stamps = store.events(some), store.stamps(version.number, some)
        for user in some:
            fresh = served.catalogue.known([event.item for event in events[user]])
            history = np.concatenate([served.history(user), fresh])
            if len(history) and stamps.get(user) != stamp(history):
                yield user, history


def read_shard(text: str) -> tuple[int, int]:
    """Read ``i/n``: which shard, from 0, and of how many.

    Raises:
        InputError: it is something else.
    """
    first, _, second = text.partition("/")
    check(first.isdecimal() and second.isdecimal(), f"--shard must be <i>/<n>, such as 0/4, got {text!r}")
    shard, shards = int(first), int(second)
    check(
        shard < shards, f"--shard counts from 0: with {shards} shards the last is {shards - 1}/{shards}, got {text!r}"
    )
    return shard, shards


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_think.serving.think_ahead", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    usual = AheadOptions()
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run that thinks")
    parser.add_argument(
        "--store", default="", help="sqlite:///<file> or redis://...; default: a file in the run folder"
    )
    parser.add_argument("--split", default="all", choices=SPLITS,
                        help="how far histories go: test = all but one event, valid = all but two")  # fmt: skip
    parser.add_argument("--shard", default="0/1", help="this process makes shard i of n, from 0 (default: %(default)s)")
    parser.add_argument("--thoughts", type=int, default=usual.thoughts, help="of each user (default: %(default)s)")
    parser.add_argument("--prefixes", type=int, default=usual.prefixes, help="of each thought (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=usual.depth, help="codes of a prefix (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
