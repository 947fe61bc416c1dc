"""Reasoning enhancement (OneRec-Think, "Reasoning Enhancement"): GRPO with rollout-beam rewards, by TRL's trainer.

A step draws a group of rationales for each prompt, follows each with beams of the policy as it is now, and rewards it
by where it led. Prompts are the last training events of all users, withheld from the stages before (``fresh``): on
places the policy knows by heart it learnt which thoughts go with them, and nothing that held for others. Of the loss
the rationale alone is part, as in the paper; rows of words and codes stay as they are.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from recbole_think.corpus.histories import Histories
from recbole_think.decoding.sampling import SampleOptions
from recbole_think.decoding.trie import SidTrie
from recbole_think.itemic.codes import Codes
from recbole_think.prompts.tasks import recommendation_frame, recommendation_prompt
from recbole_think.prompts.thinking import thought_prompt
from recbole_think.stages.dialect import Dialect, dialect_of
from recbole_think.stages.grpo import Task, reinforced, sized_up
from recbole_think.stages.held_out import HeldOut, all_compared
from recbole_think.stages.policy import Place, drawn_places, layers_alone
from recbole_think.stages.precision import choose
from recbole_think.stages.reinforcement import EnhancementOptions
from recbole_think.stages.rewards import REWARDS, RewardOptions
from recbole_think.stages.rollout import Asked, Rollout
from recbole_think.stages.scored import scored_words
from recbole_think.stages.stage import Context, Outcome
from recbole_think.stages.vllm_rollout import VllmRollout


@dataclass(frozen=True)
class Thinking:
    """What thinking is made of, besides the language model."""

    codes: Codes
    trie: SidTrie
    words: np.ndarray  # tokens a thought may be made of
    longest: int  # tokens of a thought
    normalize: str
    max_history: int
    mask_history: bool


class Enhancement:
    """The stage."""

    name = "enhancement"

    def __init__(
        self, options: EnhancementOptions, rewards: RewardOptions, thinking: Thinking,
        held_out: Callable[[int, int], HeldOut], fresh: Histories | None = None,
    ):  # fmt: skip
        """Take what the stage leans on.

        Args:
            options: of the stage.
            rewards: what is rewarded.
            thinking: how the model thinks and answers.
            held_out: (users that choose the checkpoint, further users) -> what measures the reward on the latter.
            fresh: whole histories, whose last events no stage before was taught: those are the prompts. None = any
                place of the histories all stages read.
        """
        self.fresh = fresh
        self.options, self.rewards, self.thinking, self.held_out = options, rewards, thinking, held_out
        kept = {name: getattr(thinking, name) for name in ("longest", "normalize", "max_history", "mask_history")}
        self.leans_on = {"rewards": asdict(rewards), "thinking": kept}

    def learning(self, model: Any) -> AbstractContextManager:
        """Let the layers learn, or adapters in their place; no rows of words or codes."""
        return layers_alone(model, self.options.lora_rank)

    def plan(self, context: Context) -> list[Place]:
        """Every prompt of every step: history shown, target, and all that was met before. Drawn by seed.

        Raises:
            InputError: no user has enough training events.
        """
        wanted = self.options.steps * self.options.prompts
        histories, longest = self.fresh or context.histories, self.thinking.max_history
        return drawn_places(histories, self.fresh is not None, wanted, longest, context.seed)

    def probe(self, context: Context) -> dict[str, Any]:
        """Make two steps and size up the stage by the second: tokens, steps, seconds; the weights are not put back."""
        few = replace(self.options, steps=2, iterations=1, validations=1, valid_users=1, checkpoints=0)
        stage = Enhancement(few, self.rewards, self.thinking, self.held_out, self.fresh)
        with stage.learning(context.model):
            return sized_up(stage._trained(context), self.options)

    def run(self, context: Context) -> Outcome:
        """Let rationales compete; keep the weights validation liked best, and measure the reward on held-out users."""
        options = self.options
        held_out = self.held_out(options.valid_users, options.held_out) if options.held_out else None
        before = held_out(context.model) if held_out else None
        with self.learning(context.model):
            outcome = self._trained(context)
        context.model.eval()
        if held_out and before is not None:
            outcome.figures["held_out_reward"] = all_compared(before, held_out(context.model))
        return outcome

    def _trained(self, context: Context) -> Outcome:
        prompts = self._prompts(context)
        dialect = dialect_of(
            *(ids for ids, _, _ in prompts), self.thinking.words, torch.cat(context.vocabulary.code_tokens).numpy()
        )
        rollout, temperature = self._rollout(context, dialect, prompts), self.options.temperature
        words = partial(scored_words, words=rollout.only, temperature=temperature) if self.options.vllm else None
        task = Task(
            self.name, self.options, dialect, rollout, REWARDS, self.rewards.weighed, REWARDS["hit"], thinks=True,
            temperature=temperature, scored=words,
        )  # fmt: skip
        return reinforced(task, context)

    def _prompts(self, context: Context) -> list[Place]:
        frame = recommendation_frame(context.vocabulary.tokenizer)
        return [
            (
                thought_prompt(recommendation_prompt(frame, context.vocabulary, shown), context.vocabulary),
                target,
                before,
            )
            for shown, target, before in self.plan(context)
        ]

    def _rollout(self, context: Context, dialect: Dialect, prompts: Sequence[Place]) -> Rollout:
        options, thinking, config = self.options, self.thinking, context.model.config
        asked = [
            Asked(dialect.ids(ids), target, before if thinking.mask_history else before[:0])
            for ids, target, before in prompts
        ]
        sampling = SampleOptions(options.rationales, thinking.longest + 1, options.temperature)
        dtype = choose(options.precision, context.folder, config.hidden_size, config.intermediate_size)
        given = (
            context.vocabulary, thinking.codes, thinking.trie, dialect, thinking.words, asked, sampling, options.beams,
            thinking.normalize, context.seed, dtype,
        )  # fmt: skip
        return partial(VllmRollout, server=options.vllm_server)(*given) if options.vllm else Rollout(*given)
