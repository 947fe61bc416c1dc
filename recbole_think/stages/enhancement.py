"""Reasoning enhancement (OneRec-Think, "Reasoning Enhancement"): GRPO with rollout-beam rewards, by TRL's trainer.

A step draws a group of rationales for each prompt, follows each with beams of the policy as it is now, and rewards it
by where it led. Prompts are the last training events of all users, withheld from the stages before (``fresh``): on
places the policy knows by heart it learnt which thoughts go with them, and nothing that held for others. Of the loss
the rationale alone is part, as in the paper; rows of words and codes stay as they are. The policy TRL trains is a plain
model that shares the layers of ours (``dialect.py``): after every step ours is the policy, and validation and the next
stage need know nothing of it.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed

from recbole_think.artifacts import disk_guard, load_tensors
from recbole_think.corpus.histories import Histories
from recbole_think.decoding.sampling import SampleOptions
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.itemic.codes import Codes
from recbole_think.prompts.tasks import recommendation_frame, recommendation_prompt
from recbole_think.prompts.thinking import thought_prompt
from recbole_think.stages.adapters import adapted
from recbole_think.stages.checkpoints import last_checkpoint
from recbole_think.stages.dialect import Dialect, dialect_of, spoken_model
from recbole_think.stages.grpo import RewardTrainer, Stop, arguments, outcome_of, rewarded
from recbole_think.stages.held_out import HeldOut, all_compared
from recbole_think.stages.options import EnhancementOptions
from recbole_think.stages.precision import choose
from recbole_think.stages.progress import quiet, use_bar
from recbole_think.stages.rewards import RewardOptions
from recbole_think.stages.rollout import Asked, Rollout
from recbole_think.stages.stage import BEST, CHECKPOINTS, Context, Outcome, load_weights
from recbole_think.stages.validation import BestWeights

Prompt = tuple[np.ndarray, int, np.ndarray]  # items or tokens shown, target, all items met before
REFERENCE = "reference"  # the policy as it began, read back by TRL


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

    @contextmanager
    def learning(self, model: Any) -> Iterator[None]:
        """Let the layers learn, or adapters in their place; no rows of words or codes."""
        model.requires_grad_(True)
        for rows in (model.get_input_embeddings(), model.get_output_embeddings()):
            rows.requires_grad_(False)
        with adapted(model, self.options.lora_rank):
            yield

    def plan(self, context: Context) -> list[Prompt]:
        """Every prompt of every step: history shown, target, and all that was met before. Drawn by seed.

        Raises:
            InputError: no user has two training events.
        """
        histories, wanted = self.fresh or context.histories, self.options.steps * self.options.prompts
        lengths = np.diff(histories.starts)
        users = np.repeat(np.arange(histories.n_users), lengths)
        place = np.arange(len(users)) - histories.starts[users]
        among = (place == lengths[users] - 1) & (lengths[users] > 2) if self.fresh else place > 0
        events = np.flatnonzero(among)
        if not len(events):
            raise InputError("no user has enough training events: there is no next item to be rewarded for")
        dice = np.random.default_rng([context.seed, 7000])
        drawn = [dice.permutation(events) for _ in range(-(-wanted // len(events)))]
        plan = []
        for event in np.concatenate(drawn)[:wanted].tolist():
            before = histories.items[int(histories.starts[users[event]]) : event]
            plan.append((before[-self.thinking.max_history :], int(histories.items[event]), before))
        return plan

    def probe(self, context: Context) -> dict[str, Any]:
        """Make two steps and size up the stage by the second: tokens, steps, seconds; the weights are not put back."""
        few = replace(self.options, steps=2, iterations=1, validations=1, valid_users=1, checkpoints=0)
        stage = Enhancement(few, self.rewards, self.thinking, self.held_out, self.fresh)
        with stage.learning(context.model):
            outcome = stage._trained(context)
        seconds = [row["step_seconds"] for row in outcome.curve if "step_seconds" in row][-1]
        steps = self.options.steps * self.options.iterations
        return {"steps": steps, "tokens": outcome.tokens // 2 * self.options.steps, "seconds": seconds * steps}

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
        options, folder = self.options, context.folder / self.name
        set_seed(context.seed)
        prompts = self._prompts(context)
        dialect = dialect_of(
            *(ids for ids, _, _ in prompts), self.thinking.words, torch.cat(context.vocabulary.code_tokens).numpy()
        )
        policy, tokenizer = _policy(context, dialect)
        rollout = self._rollout(context, dialect, prompts)
        stop, steps = Stop(options), options.steps * options.iterations
        best = BestWeights(
            context, lambda: context.validate(options.valid_users, True), options.validations, folder, steps, True
        )
        with disk_guard(folder):
            with quiet():
                policy.config._name_or_path = str(_reference(policy, folder))
                trainer = RewardTrainer(
                    model=policy, reward_funcs=rewarded(self.rewards, rollout), rollout_func=rollout,
                    args=arguments(options, context, folder, self.rewards), processing_class=tokenizer,
                    train_dataset=Dataset.from_dict({"prompt": [str(number) for number in range(len(prompts))]}),
                    callbacks=[best, stop],
                )  # fmt: skip
            trainer.learnt = context.model
            use_bar(trainer, self.name, context.show_progress)
            trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        load_weights(context.model, load_tensors(folder / BEST))
        figures = {"stopped": stop.why, "rewards": self.rewards.weighed, "dialect": dialect.pad}
        return outcome_of(trainer.state, best, figures)

    def _prompts(self, context: Context) -> list[Prompt]:
        frame = recommendation_frame(context.vocabulary.tokenizer)
        return [
            (
                thought_prompt(recommendation_prompt(frame, context.vocabulary, shown), context.vocabulary),
                target,
                before,
            )
            for shown, target, before in self.plan(context)
        ]

    def _rollout(self, context: Context, dialect: Dialect, prompts: Sequence[Prompt]) -> Rollout:
        options, thinking, config = self.options, self.thinking, context.model.config
        asked = [
            Asked(dialect.ids(ids), target, before if thinking.mask_history else before[:0])
            for ids, target, before in prompts
        ]
        sampling = SampleOptions(options.rationales, thinking.longest + 1, options.temperature)
        dtype = choose(options.precision, context.folder, config.hidden_size, config.intermediate_size)
        return Rollout(
            context.vocabulary, thinking.codes, thinking.trie, dialect, thinking.words, asked, sampling, options.beams,
            thinking.normalize, context.seed, dtype,
        )  # fmt: skip


def _policy(context: Context, dialect: Dialect) -> tuple[Any, Any]:
    """The model TRL trains, and its tokenizer; a thought ends where it is closed."""
    policy, tokenizer = spoken_model(context.model, dialect), dialect.tokenizer(context.vocabulary)
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    policy.generation_config.bos_token_id = None
    return policy, tokenizer


def _reference(policy: Any, folder: Path) -> Path:
    """Write the policy as the stage began, where TRL reads its reference from; gone when the stage has finished."""
    path = folder / CHECKPOINTS / REFERENCE
    if not (path / "config.json").is_file():
        state = policy.state_dict()
        plain = {name.replace(".base_layer", ""): value for name, value in state.items() if "lora_" not in name}
        draft = path.with_name(f"{REFERENCE}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        policy.save_pretrained(draft, state_dict=plain)
        draft.rename(path)
    return path
