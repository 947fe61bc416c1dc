"""What a plan assumes, each with its unit and where its value is from; read from ``--name=value`` words.

Knows nothing of formulas. Numbers may be written as 1e8.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from math import isfinite
from typing import Any

from recbole_think.errors import InputError
from recbole_think.options import check, near_hint
from recbole_think.plan.backbones import BACKBONES, Backbone
from recbole_think.plan.costs import Pace
from recbole_think.plan.devices import DEVICES, Device


def said(default: Any, says: str, least: float = 1, most: float = 1e15) -> Any:
    """A number of some kind, what it says, and the least and the most it may be."""
    return field(default=default, metadata={"says": says, "least": least, "most": most})


def share(default: float, says: str) -> Any:
    """A number above 0 and at most 1."""
    return field(default=default, metadata={"says": says, "share": True})


@dataclass(frozen=True)
class Assumptions:
    """All of them; ``python -m recbole_think.plan --help`` lists them too."""

    items: int = said(100_000_000, "items of the catalogue")
    users: int = said(1_000_000_000, "users who have a history")
    active_share: float = share(0.2, "of the users have a new event on a day (assumption)")
    events_per_day: float = said(10.0, "events of such a user on that day (assumption)", 0.01)
    requests_per_day: float = said(10.0, "lists asked for by such a user on that day (assumption)", 0.01)
    peak_factor: float = said(3.0, "requests at the busiest second over the mean of a day (assumption)")
    new_items_share: float = share(0.01, "of the catalogue is new on a day (assumption)")
    text_tokens: int = said(64, "tokens of an item's text (the encoder of docs/codes.md reads up to 256)")

    levels: int = said(4, "codes of an item (the paper; our own choice from eight million items on)", most=16)
    size: int = said(256, "codes of a level (the paper)", 2)
    vector_size: int = said(448, "numbers of an item vector: 384 of text, 64 of co-occurrence (our defaults)")
    encoder_parameters: float = said(10.6e6, "weights of the encoder's layers (all-MiniLM-L6-v2)")
    fit_items: int = said(10_000_000, "items the centres are fitted to, a sample (ours: 1.5 GiB; assumption)")
    fit_passes: int = said(60, "passes of k-means over them, at most (our default)")

    backbone: str = field(default="smollm2-135m", metadata={"says": "language model", "names": tuple(BACKBONES)})
    layers: int = said(0, "of the backbone are kept; 0 = all", 0)
    history: int = said(50, "latest items a prompt shows (the paper)")
    frame_tokens: int = said(31, "tokens of a prompt around the history (ours, counted)", 0)

    warmup_tokens: float = said(1e9, "read by token warm-up (assumption)")
    caption_share: float = share(0.05, "of multi-task tokens are captions, one of each item (paper: .049 of samples)")
    epochs: float = said(1.0, "passes of the recommendation stage over all histories (assumption)", 0.001)
    explained_share: float = share(0.01, "of the users have rationales made for activation (assumption)")
    rationales_each: int = said(20, "rationales of such a history (our default per_window)")
    enhancement_prompts: float = said(1e6, "prompts of reinforcement learning (assumption)")
    rationales: int = said(16, "sampled for each of them (the paper)")
    reward_beams: int = said(32, "of each rationale (the paper)")
    row_tokens: int = said(1024, "tokens of a training row (our recipe for Qwen3)")
    batch_tokens: int = said(16384, "tokens a GPU learns from at once (assumption)")
    training_gpus: int = said(64, "GPUs that learn together (assumption)")

    thoughts: int = said(5, "sampled for a user offline (our default; the paper does not say)")
    thought_tokens: int = said(32, "of a thought (our default)", most=8192)
    prefixes: int = said(20, "kept after each thought (assumption; the paper does not say)")
    prefix_levels: int = said(2, "codes of a kept prefix (the paper)")
    refresh_days: float = said(1.0, "between two refreshes of the users with new events (assumption)", 0.001)
    model_days: float = said(
        7.0, "between two models, after each of which everybody is thought for (assumption)", 0.001
    )

    beams: int = said(50, "of a list online (our default)")
    list_length: int = said(10, "items of an answer")
    serving_batch: int = said(32, "users a GPU answers together (assumption)")
    fresh_items: int = said(5, "events since the kept prompt was read (assumption)")
    prompt_minutes: float = said(10.0, "a prompt's keys and values are kept after a request (assumption)", 0.01)
    replicas: int = said(3, "copies of the store (assumption)")
    record_overhead_bytes: int = said(100, "of a user's record: key, versions, time, index (assumption)", 0)
    request_overhead_bytes: int = said(1000, "of a request and its answer besides ids (assumption)", 0)

    gpu: str = field(default="h100", metadata={"says": "device", "names": tuple(DEVICES)})
    flops_share: float = share(0.3, "of a device's operations per second is reached (docs/scale.md)")
    bandwidth_share: float = share(0.5, "of its memory bandwidth is reached (docs/scale.md)")
    step_ms: float = said(1.0, "of a step at least: launches of kernels, captured in a graph (assumption)", 0)
    memory_share: float = share(0.9, "of its memory is used (assumption)")
    busy_share: float = share(0.7, "of the time it works (assumption)")
    network_bytes_per_s: float = said(25e9, "that reach a GPU's machine: 200 Gbit/s a GPU (assumption)")

    def __post_init__(self) -> None:
        for one in fields(self):
            _require(one, getattr(self, one.name))
        check(
            self.size**self.levels >= self.items,
            f"{self.levels} levels of {self.size} codes name {float(self.size**self.levels):,.0f} items at most, the "
            f"catalogue has {self.items:,}: raise --levels or --size",
        )
        have = BACKBONES[self.backbone].num_hidden_layers
        check(self.layers <= have, f"layers={self.layers}: {self.backbone} has {have}; ask for fewer, or 0 for all")
        check(
            self.prefix_levels < self.levels,
            f"prefix_levels={self.prefix_levels} leaves nothing to find online with levels={self.levels}: lower it",
        )
        check(self.fresh_items <= self.history, f"fresh_items={self.fresh_items} is more than history={self.history}")

    @property
    def device(self) -> Device:
        """The device named."""
        return DEVICES[self.gpu]

    @property
    def pace(self) -> Pace:
        """Rate = device FLOP/s x flops_share, bandwidth = device bytes/s x bandwidth_share."""
        return Pace(
            self.device.flops_per_s * self.flops_share,
            self.device.bytes_per_s * self.bandwidth_share,
            self.step_ms / 1e3,
        )

    @property
    def model(self) -> Backbone:
        """The backbone named, cut to its layers."""
        whole = BACKBONES[self.backbone]
        return replace(whole, num_hidden_layers=self.layers or whole.num_hidden_layers)


def assumed(given: Mapping[str, str]) -> Assumptions:
    """Read assumptions from texts by name; those not given keep their defaults.

    Raises:
        InputError: a text that is no number, a number out of range, a name nobody knows, or sizes that do not fit.
    """
    return Assumptions(**{name: read(name, text) for name, text in given.items()})


def read(name: str, text: str) -> Any:
    """The value of one assumption.

    Raises:
        InputError: a text that is no number.
    """
    one: Field = next(one for one in fields(Assumptions) if one.name == name)
    if "names" in one.metadata:
        return text
    try:
        value = float(text)
    except ValueError as why:
        raise InputError(f"--{one.name} must be a number, got {text!r}") from why
    if one.type is not int or not isfinite(value):
        return value
    check(value.is_integer(), f"--{one.name} must be a whole number, got {text}")
    return int(value)


def _require(one: Field, value: Any) -> None:
    names = one.metadata.get("names")
    if names:
        check(value in names, f"unknown {one.name} {value!r}{near_hint(str(value), names)}; known: {', '.join(names)}")
    elif one.metadata.get("share"):
        check(0 < value <= 1, f"{one.name} is a share above 0 and at most 1, got {value:g}")
    else:
        least, most = one.metadata["least"], one.metadata["most"]
        check(least <= value <= most, f"{one.name} must be {least:g} to {most:g}, got {value:g}")
