"""HSTU on item ids, trained on every position at once (Zhai et al. 2024, "Actions Speak Louder than Words", ICML).

A layer norms its input, makes U, V, Q and K of it by one projection with SiLU, weighs V by SiLU(Q K^T + bias) / n
without a softmax, so that how much was read is not forgotten, gates what was read by U, and adds it to its input. The
bias is learnt for the distance of two events in places and, in logarithmic buckets, in time.
As in the paper's traditional setting (§4.1.1) items are all there is, and scores are cosines over a temperature; the
loss is a softmax over the whole catalogue, where the authors sample negatives. docs/rivals.md: measured against their
code, what differs, and why.

Time is RecBole's, float32 in [0, 1] over the data set, counted in ticks of 2^-24, the finest such numbers tell apart.
The authors count seconds: another unit only shifts logarithmic buckets.

B windows, T events of the longest (inputs), d hidden size, H heads, N predicted items of a batch, V items with padding.
"""

from typing import ClassVar

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn import functional

from recbole_think.corpus.histories import training_histories, training_times
from recbole_think.errors import InputError
from recbole_think.stages.cross_entropy import catalogue_loss
from recbole_think.stages.dropout import dropout

SIMILARITIES = ("cosine", "dot")
TICKS = 2**24  # in the span of the data set
BUCKETS = 128  # the last one holds all that lies beyond
WIDTH = 0.301  # of a bucket, in the natural logarithm of ticks: each is 1.35 times as long as the one before
EPS = 1e-6
STD = 0.02  # of initial weights


class HSTU(SequentialRecommender):
    """Pointwise gated attention over a history and its times."""

    input_type = InputType.POINTWISE  # RecBole asks what it needs of its loaders: nothing
    UNREAD_KEYS: ClassVar = {"train_neg_sample_args": "its loss is over the whole catalogue and needs no negatives"}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.TIME = config["TIME_FIELD"]
        self.TIME_SEQ = self.TIME + config["LIST_SUFFIX"]
        self.time_bias, self.request_time = config["time_bias"], config["request_time"]
        self.similarity, self.temperature = config["similarity"], config["temperature"]
        self.hidden_dropout = config["hidden_dropout_prob"]
        self.histories = training_histories(dataset)
        self.events = {self.ITEM_SEQ: self.histories.items}
        if self.time_bias:
            self.events[self.TIME_SEQ] = ticks(torch.from_numpy(training_times(dataset))).numpy()

        size = config["hidden_size"]
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        self.layers = nn.ModuleList(
            TransductionUnit(
                size, config["n_heads"], self.max_seq_length, self.time_bias,
                self.hidden_dropout, config["attn_dropout_prob"],
            )
            for _ in range(config["n_layers"])
        )  # fmt: skip
        nn.init.trunc_normal_(self.item_embedding.weight[1:], std=STD, a=-2 * STD, b=2 * STD)
        nn.init.zeros_(self.item_embedding.weight[:1])
        nn.init.xavier_normal_(self.position_embedding.weight)

    @staticmethod
    def require_inputs(config) -> None:
        """Refuse, before data is loaded, what would fail or mean nothing later."""
        if config["similarity"] not in SIMILARITIES:
            raise InputError(f"similarity={config['similarity']!r}: HSTU knows {' and '.join(SIMILARITIES)}")
        for key in ("MAX_ITEM_LIST_LENGTH", "train_batch_size", "n_layers", "n_heads"):
            if not isinstance(config[key], int) or config[key] < 1:
                raise InputError(f"{key} must be a whole number of at least 1, got {config[key]!r}")
        if config["hidden_size"] % config["n_heads"]:
            raise InputError(f"hidden_size={config['hidden_size']} is not a multiple of n_heads={config['n_heads']}")
        if not config["temperature"] > 0:
            raise InputError(f"temperature must be above 0, got {config['temperature']!r}")
        if config["request_time"] and not config["time_bias"]:
            raise InputError("request_time: true is read by the time bias alone; set time_bias: true too")
        if config["time_bias"] and config["TIME_FIELD"] not in config["load_col"]["inter"]:
            raise InputError(f"time_bias: true reads {config['TIME_FIELD']!r}; add it to load_col.inter")

    def calculate_loss(self, interaction):
        """Mean loss over all predicted items of a batch of windows; see ``WindowTrainer``."""
        rows = interaction[self.ITEM_SEQ]  # [B, T + 1], zeros behind the end
        times = interaction[self.TIME_SEQ] if self.time_bias else None
        real = rows[:, 1:] > 0
        hidden = self.encode(rows[:, :-1], times)[real]  # [N, d]
        return catalogue_loss(hidden / self.temperature, self.catalogue()[1:], rows[:, 1:][real] - 1)

    def encode(self, items: Tensor, times: Tensor | None) -> Tensor:
        """Read windows; return what each position is compared with items by, [B, T, d].

        The causal mask hides the padding too, since it lies behind every real event.

        Args:
            items: int64 [B, T], zeros behind the end.
            times: int64 [B, T + 1] ticks, one of the event after the last too; None without the time bias.
        """
        state = self.item_embedding(items) * self.item_embedding.embedding_dim**0.5
        state = state + self.position_embedding.weight[: items.shape[1]]
        state = dropout(state, self.hidden_dropout, self.training)
        buckets = None if times is None else self.buckets(times)
        for layer in self.layers:
            state = layer(state, buckets)
        return functional.normalize(state, dim=-1, eps=EPS) if self.similarity == "cosine" else normed(state)

    def catalogue(self) -> Tensor:
        """What the output is compared with, [V, d]."""
        table = self.item_embedding.weight
        return functional.normalize(table, dim=-1, eps=EPS) if self.similarity == "cosine" else table

    def buckets(self, times: Tensor) -> Tensor:
        """Bucket of the time that has passed at each position since each event, int64 [B, T, T].

        A position is asked at the time of its own event or, with ``request_time``, of the event it is to predict.
        """
        asked = times[:, 1:] if self.request_time else times[:, :-1]
        passed = (asked.unsqueeze(2) - times[:, :-1].unsqueeze(1)).clamp(min=1)
        return (passed.log() / WIDTH).long().clamp(max=BUCKETS)

    def full_sort_predict(self, interaction):
        """Scores of the whole catalogue, [B, V]; the temperature would not change their order."""
        return self._last(interaction) @ self.catalogue().T

    def predict(self, interaction):
        """Score of one item for each row, [B]."""
        return (self._last(interaction) * self.catalogue()[interaction[self.ITEM_ID]]).sum(1)

    def _last(self, interaction) -> Tensor:
        """What is known at the end of each of RecBole's rows, [B, d]."""
        ends = interaction[self.ITEM_SEQ_LEN]
        items = interaction[self.ITEM_SEQ][:, : ends.max()]
        times = self._times(interaction, ends) if self.time_bias else None
        return self.gather_indexes(self.encode(items, times), ends - 1)

    def _times(self, interaction, ends: Tensor) -> Tensor:
        """Ticks of the events of RecBole's rows and, where it may be read, of the target behind them: [B, T + 1]."""
        times = functional.pad(ticks(interaction[self.TIME_SEQ][:, : ends.max()]), (0, 1))
        if self.request_time:
            times.scatter_(1, ends.unsqueeze(1), ticks(interaction[self.TIME]).unsqueeze(1))
        return times


class TransductionUnit(nn.Module):
    """One layer.

    Args:
        size: d.
        heads: H, which share the bias.
        longest: events of a full history: n, and the number of distances.
        timed: whether time is part of the bias.
        hidden_dropout: on what was read and gated.
        attn_dropout: on the attention's weights.
    """

    def __init__(self, size: int, heads: int, longest: int, timed: bool, hidden_dropout: float, attn_dropout: float):
        super().__init__()
        self.heads, self.longest = heads, longest
        self.hidden_dropout, self.attn_dropout = hidden_dropout, attn_dropout
        self.uvqk = nn.Linear(size, 4 * size, bias=False)
        self.out = nn.Linear(size, size)
        self.of_distance = nn.Parameter(STD * torch.randn(longest))
        self.of_time = nn.Parameter(STD * torch.randn(BUCKETS + 1)) if timed else None
        nn.init.normal_(self.uvqk.weight, std=STD)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, state: Tensor, buckets: Tensor | None) -> Tensor:
        """Read states [B, T, d] and time buckets [B, T, T]; return states.

        The sum is divided by the longest history and not by the batch's, so that padding changes nothing.
        """
        gate, *others = functional.silu(self.uvqk(normed(state))).chunk(4, dim=-1)
        value, query, key = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in others)  # [B, H, T, d / H]
        weights = functional.silu(query @ key.transpose(2, 3) + self._bias(state.shape[1], buckets)).tril()
        read = dropout(weights / self.longest, self.attn_dropout, self.training) @ value
        gated = gate * normed(read.transpose(1, 2).flatten(2))  # [B, T, d]
        return state + self.out(dropout(gated, self.hidden_dropout, self.training))

    def _bias(self, length: int, buckets: Tensor | None) -> Tensor:
        """Added to the scores of every head, [T, T] or [B, 1, T, T]."""
        place = torch.arange(length, device=self.of_distance.device)
        bias = self.of_distance[(place.unsqueeze(1) - place).clamp(min=0)]
        return bias if self.of_time is None else bias + self.of_time[buckets].unsqueeze(1)


def normed(states: Tensor) -> Tensor:
    """Layer norm without weights of its own."""
    return functional.layer_norm(states, states.shape[-1:], eps=EPS)


def ticks(times: Tensor) -> Tensor:
    """RecBole's times, float of any shape, as int64 ticks."""
    return (times.double() * TICKS).round().long()
