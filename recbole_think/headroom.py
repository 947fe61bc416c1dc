"""``python -m recbole_think.headroom <run folder>``: what a distilled run's teachers reach themselves, and together.

The list teachers make together is what a pupil could reach by agreeing with them; what is between is its own.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from recbole_think.corpus.histories import targets
from recbole_think.distillation import TOGETHER, Teachers
from recbole_think.errors import InputError
from recbole_think.loading import LoadedRun, load
from recbole_think.paired import of_ranks
from recbole_think.stages.options import DistillationOptions

SHOWN = ("recall@10", "ndcg@10")
Metrics = dict[str, float]


def headroom(run_folder: str, show: bool = True) -> dict[str, Metrics]:
    """Metrics over the test users, of each teacher, of all together, and of the pupil under both maskings.

    Args:
        run_folder: of a finished run with ``distillation.teachers``.
        show: draw a bar.

    Returns:
        recall@10 and ndcg@10 by name; teachers name what a history holds only as ``distillation.repeats`` says.

    Raises:
        InputError: the run is not finished, or nobody taught it.
    """
    pupil = load(run_folder)
    options = DistillationOptions(**(pupil.config["distillation"] or {}))
    if not options.teachers:
        raise InputError(f"{run_folder} was taught by nobody: distillation.teachers is empty")
    found = _reached(Teachers(options, pupil.metrics["data_fingerprint"]), pupil, show)
    for part in ("test", "test_other_masking"):
        masked = pupil.metrics["mask_history"] == (part == "test")
        name = "pupil, " + ("without" if masked else "with") + " what was met before"
        found[name] = {metric: pupil.metrics[part][metric] for metric in SHOWN}
    return found


@torch.no_grad()
def _reached(teachers: Teachers, pupil: LoadedRun, show: bool) -> dict[str, Metrics]:
    loader, histories = pupil.splits["test"]
    users, wanted = targets(loader.dataset)
    names = [*teachers.names, "teachers together"]
    ranks: list[list[np.ndarray]] = [[] for _ in names]
    with tqdm(total=len(users), desc="asking teachers", unit="user", disable=not show) as bar:
        for begin in range(0, len(users), TOGETHER):
            rows = slice(begin, begin + TOGETHER)
            each = teachers.each([histories.of(user) for user in users[rows]])
            for of_one, said in zip(ranks, [*each, teachers.together(each)], strict=True):
                of_target = np.take_along_axis(said, wanted[rows, None], 1)
                of_one.append(1 + (said > of_target).sum(1))
            bar.update(len(users[rows]))
    reached = [of_ranks(np.concatenate(of_one), [10]) for of_one in ranks]
    return {
        name: {metric: float(of_one[metric].mean()) for metric in SHOWN}
        for name, of_one in zip(names, reached, strict=True)
    }


def main(words: Sequence[str]) -> int:
    """Print ``headroom``; return 0, or 2 where there is nothing to measure."""
    parser = argparse.ArgumentParser(prog="python -m recbole_think.headroom", description=__doc__)
    parser.add_argument("run_folder")
    try:
        found = headroom(parser.parse_args(words).run_folder)
    except InputError as why:
        sys.stderr.write(f"error: {why}\n")
        return 2
    width = max(map(len, found)) + 2
    for name, metrics in found.items():
        told = "  ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
        sys.stdout.write(f"{name:<{width}}{told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
