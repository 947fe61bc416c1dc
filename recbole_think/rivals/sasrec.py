"""SASRec trained on every position at once, as its authors train it (Kang & McAuley 2018).

RecBole makes one padded row of every prefix, and computes a history of fifty items fifty times. Here a row is a window
of a training history, and each of its positions predicts the item after it under the causal mask that RecBole's SASRec
has anyway. Modules and parameters are RecBole's own, so a state of the one loads into the other; scores are made by
RecBole's own code. Training walks through the same modules with cheaper dropout, gelu, mask and loss.

B windows, T items of the longest (inputs), d hidden size, H heads, N predicted items of a batch, V items with padding.
"""

from collections import ChainMap
from typing import ClassVar

import torch
from recbole.model.sequential_recommender import SASRec
from recbole.utils import InputType
from torch import Tensor
from torch.nn import functional

from recbole_think.corpus.histories import training_histories
from recbole_think.errors import InputError
from recbole_think.stages.cross_entropy import catalogue_loss
from recbole_think.stages.dropout import dropout

LOSSES = ("CE", "BCE")


class SASRecAll(SASRec):
    """RecBole's SASRec with a loss at every position."""

    input_type = InputType.POINTWISE  # RecBole knows no BCE, and asks what it needs of its loaders: nothing
    UNREAD_KEYS: ClassVar = {"train_neg_sample_args": "loss_type: BCE draws one negative a position, CE needs none"}

    def __init__(self, config, dataset):
        super().__init__(ChainMap({"loss_type": "CE"}, config), dataset)  # it refuses BCE; the loss is ours anyway
        self.loss_type = config["loss_type"]
        self.hidden_act = config["hidden_act"]
        self.histories = training_histories(dataset)
        self.events = {self.ITEM_SEQ: self.histories.items}

    @staticmethod
    def require_inputs(config) -> None:
        """Refuse, before data is loaded, what would fail or mean nothing later."""
        if config["loss_type"] not in LOSSES:
            raise InputError(f"loss_type={config['loss_type']!r}: SASRecAll trains with {' or '.join(LOSSES)}")
        for key in ("MAX_ITEM_LIST_LENGTH", "train_batch_size", "n_layers", "n_heads"):
            if not isinstance(config[key], int) or config[key] < 1:
                raise InputError(f"{key} must be a whole number of at least 1, got {config[key]!r}")
        if config["hidden_size"] % config["n_heads"]:
            raise InputError(f"hidden_size={config['hidden_size']} is not a multiple of n_heads={config['n_heads']}")

    def calculate_loss(self, interaction):
        """Mean loss over all predicted items of a batch of windows; see ``WindowTrainer``."""
        rows = interaction[self.ITEM_SEQ]  # [B, T + 1], zeros behind the end
        real = rows[:, 1:] > 0
        hidden = self.encode(rows[:, :-1])[real]  # [N, d]
        targets, table = rows[:, 1:][real], self.item_embedding.weight
        if self.loss_type == "CE":
            return catalogue_loss(hidden, table, targets)
        better = (hidden * table[targets]).sum(1)
        worse = (hidden * table[negatives(rows, self.n_items)[real]]).sum(1)
        return (functional.softplus(-better) + functional.softplus(worse)).mean()

    def encode(self, items: Tensor) -> Tensor:
        """Read windows, int64 [B, T], zeros behind the end; return what each position knows, [B, T, d]."""
        return self._pass(
            self._placed(items), future(items.shape[1], items.device), [[] for _ in self.trm_encoder.layer]
        )

    def _placed(self, items: Tensor) -> Tensor:
        """Item and place, [B, T, d]."""
        return self.item_embedding(items) + self.position_embedding.weight[: items.shape[1]]

    def _pass(self, state: Tensor, mask: Tensor, pasts: list[list[tuple[Tensor, Tensor]]]) -> Tensor:
        """Send states [B, T, d] through the transformer, once.

        Args:
            state: what enters.
            mask: [T, S], added to the scores of every head; S = T for this pass and for each one before.
            pasts: keys and values of each layer, one pair per pass; this pass adds its own.
        """
        state = self._dropped(self.LayerNorm(state), self.hidden_dropout_prob)
        for layer, past in zip(self.trm_encoder.layer, pasts, strict=True):
            state = self._attend(layer.multi_head_attention, state, mask, past)
            state = self._feed(layer.feed_forward, state)
        return state

    def _attend(self, module, state: Tensor, mask: Tensor, past: list[tuple[Tensor, Tensor]]) -> Tensor:
        """RecBole's MultiHeadAttention, which here may also look at earlier passes; see ``_pass``."""
        size = module.attention_head_size
        query, key, value = (
            part(state).unflatten(2, (-1, size)).transpose(1, 2)  # [B, H, T, d / H]
            for part in (module.query, module.key, module.value)
        )
        past.append((key, value))
        if len(past) > 1:
            key, value = (torch.cat(parts, 2) for parts in zip(*past, strict=True))  # [B, H, S, d / H]
        scores = (query / size**0.5) @ key.transpose(2, 3) + mask
        read = self._dropped(scores.softmax(-1), self.attn_dropout_prob) @ value
        read = module.dense(read.transpose(1, 2).flatten(2))  # [B, T, d]
        return module.LayerNorm(self._dropped(read, self.hidden_dropout_prob) + state)

    def _feed(self, module, state: Tensor) -> Tensor:
        """RecBole's FeedForward; its gelu in one pass instead of five."""
        act = functional.gelu if self.hidden_act == "gelu" else module.intermediate_act_fn
        wide = module.dense_2(act(module.dense_1(state)))
        return module.LayerNorm(self._dropped(wide, self.hidden_dropout_prob) + state)

    def _dropped(self, values: Tensor, rate: float) -> Tensor:
        return dropout(values, rate, self.training)


def future(length: int, device: torch.device) -> Tensor:
    """The causal mask, [T, T]; it hides the padding too, since that lies behind every real item."""
    return torch.full((length, length), -torch.inf, device=device).triu(1)


def negatives(rows: Tensor, n_items: int) -> Tensor:
    """Draw one item that is not in the window for each of its targets.

    Args:
        rows: int64 [B, T + 1], windows, zeros behind the end.
        n_items: V.

    Returns:
        int64 [B, T].

    Raises:
        InputError: a window holds the whole catalogue.
    """
    free = torch.ones(len(rows), n_items, device=rows.device).scatter_(1, rows, 0)
    free[:, 0] = 0
    if not free.any(1).all():
        raise InputError("loss_type: BCE found no item outside a window; lower MAX_ITEM_LIST_LENGTH, or use CE")
    return torch.multinomial(free, rows.shape[1] - 1, replacement=True)
