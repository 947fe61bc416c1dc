"""Popularity that counts every training event once.

RecBole's Pop counts an item at most once per batch and counts sampled negatives as well (RecBole issue 2198): on
ml-100k, history masked, that alone takes NDCG@10 from .0435 to .0354, and everything compared with it looks better.
"""

import torch
from recbole.model.general_recommender import Pop as RecBolePop

from recbole_think.corpus.histories import training_histories


class Pop(RecBolePop):
    """Ranks items by their number of training events; equal numbers in the order of RecBole's ids."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        counts = torch.bincount(torch.from_numpy(training_histories(dataset).items), minlength=self.n_items)
        self.item_cnt = counts.view(-1, 1).to(self.device)
        self.max_cnt = self.item_cnt.max(dim=0)[0]

    def calculate_loss(self, interaction):
        """Learn nothing from batches: everything was counted at the start."""
        return self.fake_loss.sum()
