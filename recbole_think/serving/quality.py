"""What answering at once costs: online, full and direct lists of the test users of a run, side by side.

    python -m recbole_think.serving.quality --run <run folder> [--prefixes 5 20] [--free 0 0.2 0.5] [--out <file.json>]

Thoughts are made where validation begins; the validation item is the fresh event; the test item is asked for. So the
online answer knows what the full one knows, but has thought about one event less. Lists are judged by RecBole's
evaluator, differences to the direct list by a bootstrap over users. Prints a Markdown table.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_think.artifacts import write_json
from recbole_think.corpus.histories import targets
from recbole_think.decoding.item_mask import ItemMask
from recbole_think.errors import exit_code
from recbole_think.judging import judge
from recbole_think.memory import keep_memory
from recbole_think.options import check
from recbole_think.paired import bootstrap_p, interval, of_ranks
from recbole_think.quiet import quiet
from recbole_think.serving.ahead import AheadOptions
from recbole_think.serving.online import AHEAD, OnlineOptions, Recommender, Visitor
from recbole_think.serving.run import ServedRun, require_direct
from recbole_think.serving.store import Store, open_store
from recbole_think.serving.think_ahead import think_ahead

TOGETHER = 64  # users answered at once
K = 10


def quality(
    served: ServedRun, ahead: AheadOptions, prefixes: Sequence[int], free: Sequence[float], show_progress: bool = True
) -> list[dict[str, Any]]:
    """Make and judge all lists.

    Args:
        served: a run that thinks and answers directly, opened with ``split=valid``.
        ahead: how much is thought; ``prefixes`` is taken from below.
        prefixes: of each thought, one version of the store each.
        free: shares of a list beside what was thought of.
        show_progress: draw bars.

    Returns:
        A row per way of making lists: ``lists``, RecBole's ``metrics``, their ``standard_error``, and the gain over
        ``direct`` in NDCG@10 and Recall@10 with its 95 % interval and p.
    """
    check(served.split == "valid", f"quality is measured from where validation begins, got split={served.split}")
    asking = _Asking(served)
    with _scratch() as store:
        made = {"direct": asking.online(store, OnlineOptions())}
    made["full: thought at once, then answered"] = asking.full(served.run.histories_until("test"))
    made["full, but without the fresh event"] = asking.full(served.histories)
    for count in prefixes:
        with _scratch() as store:
            think_ahead(served, store, replace(ahead, prefixes=count), show_progress=show_progress)
            for share in free:
                lists = asking.online(store, OnlineOptions(free=share))
                guided = asking.guided / len(asking.users)
                made[f"online: {count} prefixes a thought, {share:g} free ({guided:.0%} of users guided)"] = lists
    return _compared(served, asking.users, made)


class _Asking:
    """Who is asked for, and what they did last."""

    def __init__(self, served: ServedRun):
        self.served = served
        self.users = targets(served.run.splits["test"][0].dataset)[0]
        fresh = dict(zip(*(part.tolist() for part in targets(served.run.splits["valid"][0].dataset)), strict=True))
        name_of = {number: name for name, number in served.users.items()}
        names = served.catalogue.names
        self.guided = 0  # of the lists made last, those that thoughts guided
        self.asked = [
            Visitor(name_of[user], (names[fresh[user] - 1],) if user in fresh else (), K, served.masked)
            for user in self.users.tolist()
        ]

    def online(self, store: Store, options: OnlineOptions) -> list[list[int]]:
        """RecBole ids of every list, answered as the server answers."""
        made, number, self.guided = Recommender(self.served, store, options), self.served.catalogue.number, 0
        answers = (
            answer
            for begin in range(0, len(self.asked), TOGETHER)
            for answer in made.answer(self.asked[begin : begin + TOGETHER])
        )
        lists = []
        for answer in answers:
            lists.append([number[item.item] for item in answer.items])
            self.guided += answer.source == AHEAD
        return lists

    def full(self, histories: Any) -> list[list[int]]:
        """RecBole ids of every list after thinking about histories as they are."""
        model, of = self.served.model, [histories.of(user) for user in self.users.tolist()]

        def mask_of(rows: list[int]) -> ItemMask | None:
            if not self.served.masked:
                return None
            places, items = self.served.run.histories_until("test").cells(self.users[rows])
            shape = (len(rows), len(self.served.catalogue.names))
            return ItemMask(torch.from_numpy(places), torch.from_numpy(items - 1), shape)

        options = replace(model.options["decode"], think=True)
        ranked = model.ranker.rank(model.ranker.prompts(of), mask_of, options, model.dtype())
        return [items[:K] for items in ranked]


def _compared(served: ServedRun, users: np.ndarray, made: dict[str, list[list[int]]]) -> list[dict[str, Any]]:
    per_user, rows = {}, []
    for name, lists in made.items():
        found = judge(served.run, "test", list(zip(users.tolist(), lists, strict=True)), served.masked)
        per_user[name] = of_ranks(found.ranks, (K,), ("recall", "ndcg"))
        row: dict[str, Any] = {"lists": name, "metrics": found.metrics, "standard_error": found.standard_error}
        if name != "direct":
            for metric in (f"ndcg@{K}", f"recall@{K}"):
                gain = per_user[name][metric] - per_user["direct"][metric]
                p = bootstrap_p(per_user[name][metric], per_user["direct"][metric], served.model.seed)
                row[f"gain_{metric}"] = {
                    "mean": float(gain.mean()),
                    "interval": interval(gain, served.model.seed),
                    "p": p,
                }
        rows.append(row)
    return rows


@contextmanager
def _scratch() -> Iterator[Store]:
    """A store that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(str(Path(folder) / "store.sqlite3"))
        try:
            yield store
        finally:
            store.close()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows in Markdown."""
    lines = [
        f"| lists | Recall@{K} | NDCG@{K} | NDCG@{K} over direct (95 %) | p |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        metrics, gain = row["metrics"], row.get(f"gain_ndcg@{K}")
        over = "" if gain is None else "{:+.4f} ({:+.4f} to {:+.4f})".format(gain["mean"], *gain["interval"])
        p = "" if gain is None else f"{gain['p']:.4f}"
        lines.append(f"| {row['lists']} | {metrics[f'recall@{K}']:.4f} | {metrics[f'ndcg@{K}']:.4f} | {over} | {p} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    usual = AheadOptions()
    parser = argparse.ArgumentParser(
        prog="python -m recbole_think.serving.quality", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run that thinks")
    parser.add_argument("--thoughts", type=int, default=usual.thoughts, help="of each user (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=usual.depth, help="codes of a prefix (default: %(default)s)")
    parser.add_argument("--prefixes", type=int, nargs="+", default=[5, usual.prefixes], help="default: 5 20")
    parser.add_argument("--free", type=float, nargs="+", default=[0.0, 0.2, 0.5], help="default: 0 0.2 0.5")
    parser.add_argument("--out", type=Path, default=None, help="also write all of it as JSON")
    given = parser.parse_args(argv)
    quiet()
    return exit_code(lambda: _main(given), "nothing was written")


def _main(given: argparse.Namespace) -> int:
    keep_memory()
    with redirect_stdout(sys.stderr):
        served = ServedRun(given.run, "valid")
        require_direct(served)
        ahead = AheadOptions(given.thoughts, given.prefixes[0], given.depth)
        rows = quality(served, ahead, given.prefixes, given.free)
    if given.out is not None:
        write_json(given.out, {"thoughts": given.thoughts, "depth": given.depth, "rows": rows})
    sys.stdout.write(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
