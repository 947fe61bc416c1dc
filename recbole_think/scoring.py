"""A fitted model asked outside the evaluator: the score of every item for rows of a loader, or after a history.

Gives tables by RecBole's item id, on the CPU, with ``-inf`` for padding, for what is masked, and for items a
generative model did not name. B users, n items with padding.
"""

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor

from recbole_think.corpus.histories import Histories
from recbole_think.decoding.ranking import full_sort_scores
from recbole_think.errors import InputError
from recbole_think.generative import GenerativeRecommender


def is_generative(model) -> bool:
    """Whether the model names items, best first, instead of scoring them."""
    return isinstance(model, GenerativeRecommender)


@torch.no_grad()
def scores_of_rows(model, loader, rows: list[int], users: np.ndarray, mask: Histories | None) -> Tensor:
    """Score rows of an evaluation loader just as the evaluator does: [B, n].

    Args:
        model: in evaluation mode.
        loader: validation or test loader.
        rows: places in the loader.
        users: int64 [B], whose rows they are.
        mask: items that may not be recommended, or None.
    """
    if is_generative(model):
        model.item_mask = mask
    interaction, *_ = loader.collate_fn(rows)
    scores = _of_all_items(model, loader.dataset, interaction).view(len(rows), -1).cpu()
    scores[:, 0] = -torch.inf
    if mask is not None:
        masked, items = mask.cells(users)
        scores[torch.from_numpy(masked), torch.from_numpy(items)] = -torch.inf
    return scores


@torch.no_grad()
def scores_after(model, dataset, history: np.ndarray, masked: np.ndarray, instruction: str = "") -> Tensor:
    """Score all items after the history of nobody in particular: [n].

    Args:
        model: in evaluation mode.
        dataset: RecBole's data set.
        history: int64 [h >= 1], RecBole's item ids, oldest first.
        masked: int64 [m], items that may not be recommended.
        instruction: a wish in words, for a model that thinks.

    Raises:
        InputError: the model reads more than a history.
    """
    if is_generative(model):
        mask = torch.zeros(1, dataset.item_num - 1, dtype=torch.bool)
        mask[0, torch.from_numpy(masked - 1)] = True
        return full_sort_scores(model.recommend([history], mask, instruction), dataset.item_num)[0]
    name = type(model).__name__
    if model.type != ModelType.SEQUENTIAL:
        raise InputError(f"{name} knows the users it was trained on, not histories; give a user id")
    latest = torch.from_numpy(history[-model.max_seq_length :])
    row = torch.zeros(1, model.max_seq_length, dtype=torch.int64)
    row[0, : len(latest)] = latest
    asked = Interaction({model.ITEM_SEQ: row, model.ITEM_SEQ_LEN: torch.tensor([len(latest)])})
    try:
        scores = _of_all_items(model, dataset, asked).view(-1).cpu()
    except KeyError as why:  # the interaction's, for a column it was not given
        raise InputError(f"{name} reads {why} besides the history; give a user id") from why
    scores[np.append(masked, 0)] = -torch.inf
    return scores


def _of_all_items(model, dataset, interaction: Interaction) -> Tensor:
    interaction = interaction.to(model.device)
    try:
        return model.full_sort_predict(interaction)
    except NotImplementedError:  # RecBole's word for a model that scores one pair of user and item at a time
        items = dataset.get_item_feature().to(model.device)
        rows = []
        for number in range(len(interaction)):
            pairs = interaction[number : number + 1].repeat(len(items))
            pairs.update(items)
            rows.append(model.predict(pairs))
        return torch.stack(rows)
