"""Two heuristics without a parameter to learn: what follows the last item, and what reads like it.

A model that cannot beat them has learnt nothing of users. By default the last item of a history alone speaks; with a
``decay`` above 0 the items before it do as well, each with that share of what the next one says. Items that score the
same stand in the order of their popularity. B histories of up to T items, V items with padding.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from recbole_think.corpus.histories import Histories, training_histories
from recbole_think.corpus.items import read_items
from recbole_think.errors import InputError
from recbole_think.inputs import atomic_file
from recbole_think.itemic.embed import text_vectors

TIE = 1e-5  # popularity decides between scores that differ by less, and no others


class Likeness(SequentialRecommender):
    """Scores every item by how it goes with those of a history; nothing is trained."""

    input_type = InputType.POINTWISE
    UNREAD_KEYS: ClassVar = {key: "nothing is trained" for key in ("epochs", "learning_rate", "train_neg_sample_args")}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.none = nn.Parameter(torch.zeros(1))  # RecBole's trainer wants something to optimise
        self.decay = config["decay"]
        self.histories = training_histories(dataset)
        counts = np.bincount(self.histories.items, minlength=self.n_items)
        self.popularity = counts.argsort(kind="stable").argsort().astype(np.float32)
        self.popularity = (1 + self.popularity) / (1 + self.n_items)  # between 0 and 1

    @staticmethod
    def require_inputs(config) -> None:
        """Refuse a decay that is none."""
        if not isinstance(config["decay"], int | float) or not 0 <= config["decay"] <= 1:
            raise InputError(f"decay must be a number from 0 to 1, got {config['decay']!r}")

    def say(self, items: np.ndarray, lengths: np.ndarray) -> csr_matrix:
        """How much each item of a history has to say, summing to 1: float32 [B, V].

        Args:
            items: int64 [B, T], oldest first, then padding.
            lengths: int64 [B].
        """
        age = lengths[:, None] - 1 - np.arange(items.shape[1])
        rows, places = np.nonzero(age == 0 if self.decay == 0 else age >= 0)
        weight = np.float32(self.decay) ** age[rows, places].astype(np.float32)
        found = csr_matrix((weight, (rows, items[rows, places])), shape=(len(items), self.n_items))
        return found.multiply(1 / found.sum(1)).tocsr().astype(np.float32)

    def likeness(self, said: csr_matrix) -> np.ndarray:
        """How much histories speak for each item, given how much each of theirs has to say: float32 [B, V]."""
        raise NotImplementedError

    def calculate_loss(self, interaction):
        """There is nothing to learn."""
        return self.none.sum() * 0

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items: float32 [B, V]."""
        items, lengths = (interaction[name].cpu().numpy() for name in (self.ITEM_SEQ, self.ITEM_SEQ_LEN))
        return torch.from_numpy(self.scores(self.likeness(self.say(items, lengths)) + TIE * self.popularity))

    def scores(self, broken: np.ndarray) -> np.ndarray:
        """Of likenesses without ties, [B, V], what is ranked."""
        return broken


class CoOccurrence(Likeness):
    """Shares of what users met at most ``window`` events after an item (or before it, if ``both``)."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        table = together(self.histories, self.n_items, config["window"], config["both"])
        self.table = table.multiply(1 / np.maximum(table.sum(1), TIE)).tocsr().astype(np.float32)

    @staticmethod
    def require_inputs(config) -> None:
        """Refuse a window that is none."""
        Likeness.require_inputs(config)
        if not isinstance(config["window"], int) or config["window"] < 1:
            raise InputError(f"window must be a whole number of at least 1, got {config['window']!r}")
        if not isinstance(config["both"], bool):
            raise InputError(f"both must be true or false, got {config['both']!r}")

    def likeness(self, said: csr_matrix) -> np.ndarray:
        """See ``Likeness``."""
        return (said @ self.table).toarray()

    def scores(self, broken: np.ndarray) -> np.ndarray:
        """Logarithms: a softmax of them gives the shares back."""
        return np.log(broken)


def together(histories: Histories, n_items: int, window: int, both: bool) -> csr_matrix:
    """How often each item came at most ``window`` events after each other one: float32 [V, V].

    Args:
        histories: training histories.
        n_items: V.
        window: a pair ``distance`` events apart counts 1 / distance.
        both: or before it.
    """
    users = np.repeat(np.arange(histories.n_users), np.diff(histories.starts))
    found = csr_matrix((n_items, n_items), dtype=np.float32)
    for distance in range(1, window + 1):
        same = users[distance:] == users[:-distance]
        pairs = histories.items[:-distance][same], histories.items[distance:][same]
        found += csr_matrix((np.full(same.sum(), 1 / distance, dtype=np.float32), pairs), shape=found.shape)
    return (found + found.T).tocsr() if both else found.tocsr()


class TextSimilarity(Likeness):
    """Cosines of the sentence vectors of the items' texts; an item says nothing for itself."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        raw = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
        items, _ = read_items(atomic_file(config, "item"), config["ITEM_ID_FIELD"], raw)
        vectors = text_vectors([item.text for item in items], config["encoder"], Path(config["cache_dir"]))
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        self.vectors = np.concatenate([np.zeros_like(unit[:1]), unit])

    @staticmethod
    def require_inputs(config) -> None:
        """Refuse to compare texts there are none of."""
        Likeness.require_inputs(config)
        path = Path(atomic_file(config, "item"))
        if path.parent.is_dir() and not path.is_file():
            raise InputError(f"TextSimilarity compares the texts of items, and there is no {path}")

    def likeness(self, said: csr_matrix) -> np.ndarray:
        """See ``Likeness``."""
        found = (said @ self.vectors) @ self.vectors.T
        rows, items = said.nonzero()
        found[rows, items] -= np.asarray(said[rows, items])[0]  # the cosine of an item with itself is 1
        return found
