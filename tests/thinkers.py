"""A world in which a thought decides: the next item is red or blue by a coin, and the thought says which.

Items 1 to 6 are red, 7 to 12 blue, and nothing in a history tells what comes next. A rationale of the source below is
"red." or "blue.", the colour of the target: whoever has learnt thinks either with probability one half, and names an
item of the colour thought of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch

from recbole_think.corpus.histories import Histories, from_pairs
from recbole_think.corpus.items import ItemText
from recbole_think.decoding.options import DecodeOptions
from recbole_think.itemic.codes import Codes
from recbole_think.prompts.filters import Filter
from recbole_think.prompts.thinking import taught_words
from recbole_think.ranker import Ranker
from recbole_think.stages.activation import Activation
from recbole_think.stages.activation_options import ActivationOptions
from recbole_think.stages.cases import Means
from recbole_think.stages.enhancement import Enhancement, Thinking
from recbole_think.stages.lessons import Lessons
from recbole_think.stages.reinforcement import EnhancementOptions
from recbole_think.stages.rewards import RewardOptions
from recbole_think.stages.stage import Context
from tests.small import taught

N, SIZES = 12, (2, 6)
TABLE = np.array([[colour, number] for colour in (0, 1) for number in range(6)])
COLOURS = ("red", "blue")
ITEMS = [ItemText(f"thing {row % 6} {COLOURS[row // 6]}", {"class": COLOURS[row // 6]}) for row in range(N)]
MAX_HISTORY = 4


def coins(n_users: int = 60, length: int = 5, seed: int = 0) -> Histories:
    """Histories of items drawn by a coin each."""
    users = np.repeat(np.arange(1, n_users + 1), length)
    return from_pairs(users, np.random.default_rng(seed).integers(1, N + 1, len(users)), n_users + 1)


def reds(n_users: int = 40, seed: int = 1) -> Histories:
    """Histories of two, of which the second item is red."""
    dice = np.random.default_rng(seed)
    users = np.repeat(np.arange(1, n_users + 1), 2)
    items = np.stack([dice.integers(1, N + 1, n_users), dice.integers(1, 7, n_users)], 1).reshape(-1)
    return from_pairs(users, items, n_users + 1)


def killed_after_one(validate: Callable) -> Callable:
    """A validation that is interrupted when it is asked for the second time."""
    calls = count()

    def killed(users, think):
        if next(calls):
            raise KeyboardInterrupt
        return validate(users, think)

    return killed


def colour_of(item: int) -> str:
    return COLOURS[(item - 1) // 6]


@dataclass
class Colours:
    """Explains by the colour of the target."""

    asked: int = 0

    def explain(self, cases):
        self.asked += len(cases)
        return [(f"{colour_of(case.target)}.",) for case in cases]

    def costs(self):
        return {"asked": self.asked}


@dataclass
class Thinker:
    """A model that can be taught to think, and all a stage leans on."""

    context: Context
    ranker: Ranker
    source: Colours

    def activation(self, lessons: Callable[[], Lessons] | None = None, **more) -> Activation:
        options = ActivationOptions(
            **{
                "per_window": 3, "rounds": 1, "epochs": 12, "learning_rate": 3e-2, "row_learning_rate": 1e-2,
                "weight_decay": 0.0, "direct": False, "instructed": 0.0,
                "tokens_per_batch": 256, "row_tokens": 96, "dropout": 0.0, "hidden_dropout": 0.0,
                "attention_dropout": 0.0, "precision": "float32", "checkpoints": 0, "compile": "never", "longest": 4,
                "shortest": 1, **more,
            }
        )  # fmt: skip
        judging = Filter(ITEMS, self.ranker.vocabulary, options.shortest, options.longest)
        means = Means(lambda: self.source, vectors, judging, self.think, self.ranker.words, {}, lessons)
        return Activation(options, MAX_HISTORY, means)

    def enhancement(self, rewards: RewardOptions | None = None, held_out=None, **more) -> Enhancement:
        options = EnhancementOptions(
            **{
                "steps": 12, "prompts": 8, "rationales": 8, "beams": 3, "learning_rate": 1e-2, "warmup": 0.0, "kl": 0.0,
                "validations": 1, "checkpoints": 0, "precision": "float32", "held_out": 0, **more,
            }
        )  # fmt: skip
        thinking = Thinking(
            self.ranker.codes, self.ranker.trie, self.ranker.words.numpy(), 4, "level", MAX_HISTORY, mask_history=False
        )
        return Enhancement(
            options, rewards or RewardOptions(), thinking, held_out or (lambda *_: lambda model: {"total": np.zeros(1)})
        )

    def think(self, prompts, options: DecodeOptions):
        return self.ranker.think(prompts, lambda rows: None, options, torch.float32)

    def colours_thought(self, count: int = 64) -> dict[str, float]:
        """Share of thoughts after one item that say either colour."""
        prompts = self.ranker.prompts([np.array([1 + user % N]) for user in range(N)])
        said = self.think(prompts, DecodeOptions(thoughts=count, thought_tokens=4, thought_beams=1))
        texts = [self.ranker.vocabulary.tokenizer.decode(one.ids).strip() for of_user in said for one in of_user]
        return {colour: texts.count(f"{colour}.") / len(texts) for colour in COLOURS}

    def share_answered_red(self, count: int = 64) -> float:
        """Share of thoughts after one item that lead to a red one."""
        prompts = self.ranker.prompts([np.array([1 + user % N]) for user in range(N)])
        said = self.think(prompts, DecodeOptions(thoughts=count, thought_tokens=4, thought_beams=1))
        return float(np.mean([colour_of(one.items[0]) == "red" for of_user in said for one in of_user]))


def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32)


def thinker(folder: Path, histories: Histories | None = None, seed: int = 3, validate=None) -> Thinker:
    model, vocabulary = taught(TABLE, SIZES, seed)
    with torch.no_grad():
        model.get_decoder().norm.weight.mul_(8)  # words are frozen and small: so logits can be large early
    words = torch.from_numpy(taught_words([f"{colour}." for colour in COLOURS], vocabulary))
    ranker = Ranker(model, vocabulary, Codes(TABLE, SIZES), MAX_HISTORY, words)
    context = Context(
        folder=folder, model=model, vocabulary=vocabulary, histories=coins() if histories is None else histories,
        validate=validate or (lambda users, think: 0.0), seed=seed, facts={"data_fingerprint": "colours"},
        scalar=lambda *_: None, show_progress=False,
    )  # fmt: skip
    return Thinker(context, ranker, Colours())
