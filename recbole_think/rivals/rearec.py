"""ReaRec: SASRec that takes its last state in again, K times, before it recommends (Tang et al. 2025).

"Think Before Recommend", arXiv 2503.22675. When a history is read, the state of its last position, plus an embedding of
the step, enters the same transformer as one more item would, and so on (§3.1). Two ways teach the states r_0 (SASRec's
own) to r_K:

- ERL (§3.2): their mean recommends; that they do not all say the same is rewarded.
- PRL (§3.3): the last one recommends; earlier ones are judged at higher temperatures, and each must be found by its
  twin, the state of the same step with noise at the entrance.

Every position of a window reasons, not the last one alone: a step sends a row of T states through, each of which sees
the items up to its position and its own earlier steps. Its prefix alone would give the same, at many times the cost.

Where the paper and its code (github.com/TangJiakai/ReaRec, 7f46432) differ, losses are the code's, since the default
weights are. ERL's divergence is the mean over ordered pairs of steps, of which the second is held fixed, at the
temperature of the loss; Eq. 7 sums over i < j, without one. PRL's loss is the last step's plus the weighted mean of the
earlier ones'; Eq. 10 sums all. ``noise`` is a standard deviation; Eq. 11 has a variance. A twin has dropout of its own.
Departures from both: noise from the first epoch on (that code has two without, in which it fails), SASRec's dropout at
the entrance (0.2 there), and twins are told from states of other windows only, for prefixes of one history are alike.

B windows, T positions, d hidden size, N predicted items of a batch, K reasoning steps, V items with padding.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_think.errors import InputError
from recbole_think.rivals.sasrec import SASRecAll, future
from recbole_think.stages.cross_entropy import catalogue_loss

LEARNING = ("erl", "prl")
POSITIVE = ("temperature", "annealing")
WEIGHTS = ("divergence_weight", "progressive_weight", "contrastive_weight", "noise")


class ReaRec(SASRecAll):
    """SASRec with latent reasoning; without a step, and at temperature 1, it is ``SASRecAll``."""

    UNREAD_KEYS: ClassVar = {"train_neg_sample_args": "the loss is over the whole catalogue"}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.learning = config["learning"]
        self.temperature = config["temperature"]
        self.divergence_weight = config["divergence_weight"]
        self.annealing = config["annealing"]
        self.progressive_weight = config["progressive_weight"]
        self.contrastive_weight = config["contrastive_weight"]
        self.noise = config["noise"]
        steps = config["reasoning_steps"]
        self.twins = self.learning == "prl" and steps > 0 and self.contrastive_weight > 0
        self.step_embedding = nn.Embedding(steps, self.hidden_size)
        self._init_weights(self.step_embedding)

    @staticmethod
    def require_inputs(config) -> None:
        """Refuse, before data is loaded, what would fail or mean nothing later."""
        if config["loss_type"] != "CE":
            raise InputError(f"loss_type={config['loss_type']!r}: ReaRec trains with CE")
        SASRecAll.require_inputs(config)
        if config["learning"] not in LEARNING:
            raise InputError(f"learning={config['learning']!r}: ReaRec learns by {' or '.join(LEARNING)}")
        steps = config["reasoning_steps"]
        if not isinstance(steps, int) or steps < 0:
            raise InputError(f"reasoning_steps must be a whole number of at least 0, got {steps!r}")
        for key in (*POSITIVE, *WEIGHTS):
            value, bound = config[key], "above 0" if key in POSITIVE else "of at least 0"
            if not isinstance(value, int | float) or not 0 <= value < float("inf") or (key in POSITIVE and value == 0):
                raise InputError(f"{key} must be a number {bound}, got {value!r}")

    def forward(self, item_seq, item_seq_len):
        """Return what recommends to each user, [B, d]; RecBole's own code multiplies it with the items."""
        states = self.reason(item_seq)
        found = states.mean(0) if self.learning == "erl" else states[-1]
        return self.gather_indexes(found, item_seq_len - 1)

    def calculate_loss(self, interaction):
        """Mean loss over all predicted items of a batch of windows; see ``WindowTrainer``."""
        rows = interaction[self.ITEM_SEQ]  # [B, T + 1], zeros behind the end
        real = rows[:, 1:] > 0
        targets, window = rows[:, 1:][real], real.nonzero()[:, 0]  # [N]
        states = self.reason(rows[:, :-1], self.twins).unflatten(1, (1 + self.twins, -1))
        states, *noised = states[:, :, real].float().unbind(1)  # [K + 1, N, d]
        with torch.autocast(rows.device.type, enabled=False):  # what a low temperature divides needs all its digits
            if self.learning == "erl":
                return self._ensemble_loss(states, targets)
            loss = self._progressive_loss(states, targets)
            for twin in noised:
                loss = loss + self.contrastive_weight * contrast(twin[1:], states[1:], window, self.temperature)
            return loss

    def reason(self, items: Tensor, twins: bool = False) -> Tensor:
        """Read windows, int64 [B, T], zeros behind the end, and reason at every position.

        Returns:
            [K + 1, B, T, d], the states r_0 to r_K; with ``twins`` [K + 1, 2B, T, d], all rows and then their twins.
        """
        count, length = items.shape
        mask, alone = future(length, items.device), itself(length, items.device)
        pasts: list = [[] for _ in self.trm_encoder.layer]
        states = [self._pass(self._placed(items.repeat(1 + twins, 1)), mask, pasts)]
        for step in self.step_embedding.weight:
            entering = states[-1][:count] + step
            if twins:
                entering = torch.cat([entering, entering + self.noise * torch.randn_like(entering)])
            mask = torch.cat([mask, alone], 1)
            states.append(self._pass(entering, mask, pasts))
        return torch.stack(states)

    def _ensemble_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """ERL, Eq. 8: cross-entropy of the mean state, less the weighted divergence of the steps."""
        states, table = states / self.temperature, self.item_embedding.weight
        loss = catalogue_loss(states.mean(0), table, targets)
        if len(states) == 1 or self.divergence_weight == 0:
            return loss
        return loss - self.divergence_weight * divergence(states, table)

    def _progressive_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """PRL, Eq. 10: cross-entropy of the last state, and of the earlier ones at the temperatures of Eq. 9."""
        earlier, table = len(states) - 1, self.item_embedding.weight
        loss = catalogue_loss(states[-1] / self.temperature, table, targets)
        if earlier == 0:
            return loss
        powers = torch.arange(earlier, 0, -1, device=states.device)
        soft = states[:-1] / (self.temperature * self.annealing**powers).view(-1, 1, 1)
        return loss + self.progressive_weight * catalogue_loss(soft.flatten(0, 1), table, targets.repeat(earlier))


def itself(length: int, device: torch.device) -> Tensor:
    """The mask under which a position sees itself and nothing else, [T, T]."""
    return torch.full((length, length), -torch.inf, device=device).fill_diagonal_(0)


def divergence(states: Tensor, table: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence over positions and ordered pairs of steps; only a pair's first learns from it.

    KL(i | j) is the mean under p_i of log p_i - log p_j, that is, of (r_i - r_j) . e less two normalisers. Summed over
    all ordered pairs, the normalisers cancel, and (sum over j of r_i - r_j) . (mean e under p_i) is left. That mean is
    what attention to the table reads, so that no probabilities, [N, V], are ever kept.

    Args:
        states: [K + 1, N, d], divided by the temperature; K at least 1.
        table: [V, d].
    """
    steps, count, _ = states.shape
    query, items = states.reshape(1, 1, steps * count, -1), table[None, None]
    read = functional.scaled_dot_product_attention(query, items, items.detach(), scale=1.0).view_as(states)
    ahead = (steps * states - states.sum(0)).detach()  # [K + 1, N, d]
    return (read * ahead).sum() / (steps * (steps - 1) * count)


def contrast(noised: Tensor, states: Tensor, window: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of finding the state of which a noised one is the twin among those of other windows, Eq. 12.

    Args:
        noised: [K, N, d].
        states: [K, N, d].
        window: int64 [N], the window of each position.
        temperature: divides the dot products.
    """
    scores = noised @ states.transpose(1, 2) / temperature  # [K, N, N]
    related = (window[:, None] == window).fill_diagonal_(False)
    twins = torch.arange(len(window), device=window.device).repeat(len(states))
    return functional.cross_entropy(scores.masked_fill(related, -torch.inf).flatten(0, 1), twins)
