"""What RecBole's evaluator may count, and what we keep of it: one mask for all models, ranks, standard errors.

Metric definitions stay RecBole's; this file repairs what feeds them (docs/fairness.md lists each repair).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator import Collector
from recbole.evaluator.register import metrics_dict

from recbole_think.corpus.histories import Histories
from recbole_think.shards import Keep, looked_up, ranked_ahead

SAMPLES = 20  # users whose lists are kept to be looked at


@dataclass
class Scores:
    """The outcome of one evaluation over U users."""

    metrics: dict[str, float]  # {"ndcg@10": ...}, means over users
    standard_error: dict[str, float]  # same keys, sd over users / sqrt(U)
    users: np.ndarray  # int64 [U], RecBole ids
    ranks: np.ndarray  # int32 [U], rank of the best hit, 0 = not within max(topk)
    illegal_rate: float | None = None  # share of generated answers that are no item; None for score models
    lists: list[list[int]] = field(default_factory=list)  # item ids, best first, of the first few users


class ThinkCollector(Collector):
    """RecBole's collector with one history mask for all models and two repairs.

    Unranked items are never hits (``topk`` over a row of ``-inf`` picks arbitrary ones), and beyond-accuracy
    metrics work (RecBole 1.2.1 calls ``.cpu()`` on plain integers).
    """

    def __init__(self, config):
        super().__init__(config)
        self.mask: Histories | None = None
        self.users: list[np.ndarray] = []
        self.hits: list[torch.Tensor] = []
        self.lists: list[list[int]] = []

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Mask, collect as RecBole does, and remember which list positions were hits."""
        users = interaction[self.config["USER_ID_FIELD"]].cpu().numpy()
        if self.mask is not None:
            rows, items = self.mask.cells(users)
            scores_tensor[torch.from_numpy(rows), torch.from_numpy(items)] = -torch.inf
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if self.register.need("rec.topk"):
            best, items = torch.topk(scores_tensor, max(self.topk), dim=-1)
            rows_of_batch = self.data_struct["rec.topk"][-len(scores_tensor) :]  # a view: [B, max_k + 1]
            rows_of_batch[:, :-1][torch.isneginf(best)] = 0
            self.users.append(users)
            self.hits.append(rows_of_batch.cpu())
            for row in range(min(len(items), SAMPLES - len(self.lists))):
                self.lists.append(items[row][~torch.isneginf(best[row])].tolist())

    def get_data_struct(self):
        """Return the collected tensors and the plain facts side by side."""
        held = self.data_struct._data_dict
        plain = {name: value for name, value in held.items() if not isinstance(value, torch.Tensor)}
        self.data_struct._data_dict = {name: value for name, value in held.items() if name not in plain}
        struct = super().get_data_struct()  # moves tensors to the CPU and forgets this evaluation's
        struct._data_dict.update(plain)
        self.data_struct._data_dict.update(plain)
        return struct

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (users [U], hits and positive counts [U, max_k + 1]) of the evaluation just made; forget them."""
        users, hits = np.concatenate(self.users), torch.cat(self.hits).numpy()
        self.forget()
        return users, hits

    def forget(self) -> None:
        """Drop what evaluations during training left behind."""
        self.users, self.hits, self.lists = [], [], []


def set_mask(trainer, mask: Histories | None) -> None:
    """Choose the items that may not be recommended: by the scores, and inside the trie of a generative model."""
    trainer.eval_collector.mask = mask
    if hasattr(trainer.model, "item_mask"):
        trainer.model.item_mask = mask


def release_own_mask(loader) -> None:
    """Empty RecBole's own history mask (general models only), so that ``mask_history`` alone decides."""
    if isinstance(loader, FullSortEvalDataLoader) and not loader.is_sequential:
        nothing = torch.zeros(0, dtype=torch.int64)
        for user, known in enumerate(loader.uid2history_item):
            if known is not None:
                loader.uid2history_item[user] = nothing


def evaluate(
    trainer, loader, mask: Histories | None, show_progress: bool = False, keep: Keep | None = None,
    lists: Iterable[tuple[int, list[int]]] | None = None,
) -> Scores:  # fmt: skip
    """Rank the whole catalogue for every user of ``loader`` with RecBole's evaluator.

    Args:
        trainer: a RecBole trainer whose ``eval_collector`` is a ThinkCollector.
        loader: validation or test loader.
        mask: items that may not be recommended, or None.
        show_progress: draw a bar with the time left.
        keep: where a generative model's lists are kept while they are made.
        lists: user and list of every row, where a generative model has ranked them before.
    """
    set_mask(trainer, mask)
    trainer.eval_collector.forget()
    made = looked_up(trainer.model, lists) if lists else ranked_ahead(trainer.model, loader, keep, show_progress)
    with made as ahead:
        metrics = trainer.evaluate(loader, load_best_model=False, show_progress=show_progress and not ahead)
    shown = trainer.eval_collector.lists
    users, hits = trainer.eval_collector.take()
    metrics = {name: float(value) for name, value in metrics.items()}
    illegal = trainer.model.take_illegal_rate() if hasattr(trainer.model, "take_illegal_rate") else None
    return Scores(metrics, standard_errors(trainer.config, hits), users, first_hits(hits), illegal, shown)


def first_hits(hits: np.ndarray) -> np.ndarray:
    """Rank of the first hit per user, 0 when there is none. ``hits`` is [U, max_k + 1], last column the count."""
    found = hits[:, :-1] > 0
    return np.where(found.any(1), found.argmax(1) + 1, 0).astype(np.int32)


def standard_errors(config, hits: np.ndarray) -> dict[str, float]:
    """Standard error over users of every top-k metric, from RecBole's own per-user values.

    Args:
        config: RecBole's configuration (metrics, topk).
        hits: int [U, max_k + 1], hit flags by list position, then the number of positives.
    """
    errors = {}
    for name in config["metrics"]:
        metric = metrics_dict[name.lower()](config)
        if "rec.topk" not in metric.metric_need or not hasattr(metric, "metric_info"):
            continue
        flags, positives = hits[:, :-1].astype(bool), hits[:, -1]
        try:
            per_user = metric.metric_info(flags, positives)  # [U, max_k]
        except TypeError:  # metrics such as Hit, MRR and MAP-free ones take the flags alone
            per_user = metric.metric_info(flags)
        spread = per_user.std(axis=0, ddof=1) / np.sqrt(len(per_user)) if len(per_user) > 1 else per_user[0] * np.nan
        errors.update({f"{name.lower()}@{k}": float(spread[k - 1]) for k in config["topk"]})
    return errors
