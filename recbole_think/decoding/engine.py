"""Who computes thoughts and items: this process, or an engine made for many requests at once.

An engine gives what a search needs and nothing else: continuations of prompts, and the probabilities of the codes of a
level. Knows nothing of catalogues: ``stepwise.py`` walks the trie with it. ``in_process.py`` and ``server.py`` are two.
R prompts, N continuations of each, S codes of a level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import numpy as np
from torch import Tensor

from recbole_think.decoding.sampling import SampleOptions
from recbole_think.options import check

OURS = "transformers"  # this process
ENGINES = (OURS, "vllm", "openai")
Prompts = Sequence[Sequence[int]]  # token ids of each


@dataclass(frozen=True)
class EngineOptions:
    """Where an engine is and how it is asked (YAML block ``engine:``); nothing here changes what lists are."""

    url: str = ""  # openai: of the server
    model: str = ""  # openai: what the server calls the model; "" = the only one it has
    key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the key
    timeout_s: float = 120.0  # of one request
    patience_s: float = 180.0  # how long a server that does not answer is asked again
    workers: int = 8  # requests at once
    rows: int = 64  # prompts of a request for the codes of a level
    memory_share: float = 0.5  # vllm: of the GPU's memory; the run's own weights need the rest

    def __post_init__(self):
        for name in ("timeout_s", "workers", "rows"):
            check(getattr(self, name) > 0, f"engine.{name} must be positive, got {getattr(self, name)}")
        check(self.patience_s >= 0, f"engine.patience_s must not be negative, got {self.patience_s}")
        check(0 < self.memory_share <= 1, f"engine.memory_share must be in (0, 1], got {self.memory_share}")


@dataclass(frozen=True)
class Said:
    """One continuation."""

    ids: list[int]  # token ids, without the stop token
    closed: bool  # it ended by itself; False = at the length limit


@dataclass(frozen=True)
class Speech:
    """What may be said, and what ends it."""

    words: Tensor  # int64 [W], tokens that may be said, in rising order, the stop token among them
    stop: int
    size: int  # tokens of the vocabulary

    def limits(self) -> dict[str, object]:
        """The same in the words of a request: the tokens allowed, or those that are not where they are fewer."""
        allowed = self.words.tolist()
        if 2 * len(allowed) <= self.size:
            return {"allowed_token_ids": allowed}
        never = np.setdiff1d(np.arange(self.size), self.words.numpy())
        return {"logit_bias": {str(token): NEVER for token in never.tolist()}}


NEVER = -100.0  # what servers take as "not at all"


class Engine(Protocol):
    """What thinks."""

    def say(self, prompts: Prompts, how: SampleOptions, speech: Speech, seeds: Sequence[int]) -> list[list[Said]]:
        """Continue every prompt ``how.samples`` times: R lists of N.

        Args:
            prompts: R.
            how: lengths count the stop token.
            speech: what may be said.
            seeds: one a prompt; what is said after it depends on no other.
        """


class CodeEngine(Engine, Protocol):
    """What thinks, and names items."""

    def code_log_probs(self, prompts: Prompts, tokens: Sequence[int]) -> np.ndarray:
        """Log-probabilities of the codes of a level after each prompt, among themselves: float32 [R, S]."""


def names_items(engine: Engine) -> TypeGuard[CodeEngine]:
    """Whether items are to come from an engine, too, or from this process."""
    return hasattr(engine, "code_log_probs")


def spoken(ids: Sequence[int], how: SampleOptions, stop: int) -> Said:
    """What an engine returned, cut as ``sampling.sample`` cuts: closed at the limit, the stop token left out."""
    ids = list(ids)
    if stop in ids:
        return Said(ids[: ids.index(stop)], True)
    return Said(ids[: how.max_tokens - 1], False)
