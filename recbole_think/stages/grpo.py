"""GRPO by TRL: its trainer with our checkpoints and our way to read prompts, when to stop, our options in its words.

What is drawn, how it is rewarded and how it is scored comes in as functions (``Task``). The policy TRL trains is a
plain model that shares the layers of ours (``policy.py``): after every step ours is the policy, and validation and the
next stage need know nothing of it.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from recbole_think import processes
from recbole_think.artifacts import disk_guard, load_tensors
from recbole_think.stages.checkpoints import spacing
from recbole_think.stages.dialect import Dialect
from recbole_think.stages.lean_checkpoints import LeanCheckpoints
from recbole_think.stages.policy import policy_of, reference_of
from recbole_think.stages.progress import quiet, use_bar
from recbole_think.stages.reinforcement import ReinforcementOptions
from recbole_think.stages.rollout import Drawing
from recbole_think.stages.scored import scored
from recbole_think.stages.sharding import Learner
from recbole_think.stages.stage import BEST, CHECKPOINTS, Context, Outcome, load_weights
from recbole_think.stages.training import precise, products_in
from recbole_think.stages.validation import BestWeights

log = logging.getLogger(__name__)
MOST_LOGITS = 4096  # tokens of a dialect whose logits are made for every position
WINDOW = 5  # steps a mean is taken over before training is stopped
CURVES = {  # of TRL's log -> of ours
    "reward": "reward", "reward_std": "reward_spread", "frac_reward_zero_std": "groups_without_signal",
    "hit_rate": "hit_rate", "completions/mean_length": "rationale_tokens", "kl": "kl", "entropy": "entropy",
    "sampling/importance_sampling_ratio/mean": "engine_ratio",
    "sampling/sampling_logp_difference/mean": "engine_difference",
    "rollout_seconds": "rollout_seconds", "reward_seconds": "reward_seconds", "step_time": "step_seconds",
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What a stage brings to TRL's trainer."""

    name: str  # of the stage
    options: ReinforcementOptions
    dialect: Dialect
    drawing: Drawing
    rewards: Mapping[str, Callable[[Any], float]]  # of where a completion led
    weights: Mapping[str, float]  # of each reward
    hit: Callable[[Any], float]  # whether it led to the target, for the log
    thinks: bool  # whether lists made after thinking choose the checkpoint, or those made without
    temperature: float = 1.0  # completions were drawn at
    # model, input_ids, attention_mask, longest, head -> as ``scored``; None = out of all of the dialect
    scored: Callable[..., tuple[Tensor, Tensor]] | None = None


def reinforced(task: Task, context: Context) -> Outcome:
    """Train what learns in ``context.model`` by rewards, ending with the weights validation liked best."""
    options, folder = task.options, context.folder / task.name
    set_seed(context.seed)
    policy, tokenizer = policy_of(context, task.dialect)
    reference = reference_of(policy, tokenizer, folder)
    policy.name_or_path = policy.config._name_or_path = str(reference)  # what TRL and its engine read by
    engine = task.drawing.engine(reference)
    head = copy.deepcopy(policy.get_output_embeddings())  # stays on the device, whole
    learner = Learner(policy, context.sharding)
    learner.cut(learner.model.get_decoder())  # whose head is frozen, and read beside its forward
    stop, steps = Stop(options), options.steps * options.iterations
    best = BestWeights(
        context, lambda: context.validate(options.valid_users, task.thinks), options.validations, folder, steps,
        at_start=True, learner=learner,
    )  # fmt: skip
    numbers = [str(number) for number in range(len(task.drawing.asked))]
    weights = list(task.weights.values())
    with disk_guard(folder), learner:
        with quiet():
            trainer = RewardTrainer(
                model=learner.model, reward_funcs=rewarded(task), rollout_func=task.drawing,
                args=arguments(
                    options, task.temperature, context.seed, folder, weights, {**learner.arguments(), **engine}
                ),
                train_dataset=Dataset.from_dict({"prompt": numbers}), processing_class=tokenizer,
                callbacks=[best, stop], learner=learner,
            )  # fmt: skip
        trainer.scored, trainer.head, trainer.dtype = task.scored, head, precise(options, context)
        use_bar(trainer, task.name, context.show_progress)
        trainer.learn(folder)
    load_weights(context.model, load_tensors(folder / BEST))
    figures = {"stopped": stop.why, "rewards": dict(task.weights), "dialect": task.dialect.pad}
    return outcome_of(trainer.state, best, figures)


def outcome_of(state: Any, best: BestWeights, figures: dict[str, Any]) -> Outcome:
    """What the stage reports, out of TRL's log of every step."""
    history = [row for row in state.log_history if "reward" in row]
    curve: list[dict[str, float]] = []
    for row in history:
        told = {ours: row[theirs] for theirs, ours in CURVES.items() if row.get(theirs) is not None}
        curve.append({"step": row["step"], **told})
    curve += [{"step": int(step), "valid": score} for step, score in best.scores.items()]
    loss = next((row["loss"] for row in reversed(state.log_history) if "loss" in row), 0.0)
    return Outcome(loss, int(state.num_input_tokens_seen), state.global_step, best.score, curve, figures)


def sized_up(outcome: Outcome, options: ReinforcementOptions) -> dict[str, Any]:
    """What a stage will cost, by the second of two steps: tokens, steps, seconds."""
    seconds = [row["step_seconds"] for row in outcome.curve if "step_seconds" in row][-1]
    steps = options.steps * options.iterations
    return {"steps": steps, "tokens": outcome.tokens // 2 * options.steps, "seconds": seconds * steps}


class RewardTrainer(LeanCheckpoints, GRPOTrainer):
    """TRL's trainer, with checkpoints of what learns alone, and prompts read once for all of their completions."""

    scored: Callable[..., tuple[Tensor, Tensor]] | None = None  # see ``Task``
    head: Any = None  # of the policy, frozen
    dtype: torch.dtype = torch.float32  # products are taken in

    def learn(self, folder: Path) -> None:
        """Train, and give back what a device holds for it, the reference too."""
        super().learn(folder)
        reference: Any = self.ref_model
        if hasattr(reference, "destroy"):  # an engine of DeepSpeed's
            reference.destroy()

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Make a step, whose gradients all processes share.

        DDP does so in what comes back from its own ``forward``, which scoring may go past; what it has averaged, this
        leaves as it is.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.learner.sharding == "none":
            processes.average_gradients(model.parameters())
        return loss

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **others
    ):
        """Score completions as TRL does (which reads a prompt anew for each), from rows that hold a prompt once.

        TRL's own way is taken where the dialect is so large that logits of every position would not fit.
        """
        plain = self.accelerator.unwrap_model(model)  # DDP would average by itself, DeepSpeed take products in float32
        with products_in(self.dtype, input_ids.device):
            if self.scored is not None:
                log_probs, entropy = self.scored(plain, input_ids, attention_mask, logits_to_keep, head=self.head)
            elif plain.get_output_embeddings().out_features > MOST_LOGITS:
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **others
                )
            else:
                log_probs, entropy = scored(plain, input_ids, attention_mask, logits_to_keep, self.temperature)
        return log_probs, entropy if compute_entropy else None, None


class Stop(TrainerCallback):
    """Stops training whose reward collapses or whose policy runs away."""

    def __init__(self, options: ReinforcementOptions):
        self.options = options
        self.why = ""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Look at the means of the first and of the last steps."""
        rows = [row for row in state.log_history if "reward" in row]
        if len(rows) < 2 * WINDOW or self.why:
            return
        first, last = rows[:WINDOW], rows[-WINDOW:]
        kl = float(np.mean([row.get("kl") or 0.0 for row in last]))
        began, now = (float(np.mean([row["reward"] for row in part])) for part in (first, last))
        if kl > self.options.most_kl:
            most = f"{self.options.block}.most_kl={self.options.most_kl}"
            self.why = f"step {state.global_step}: KL {kl:.3f} is beyond {most}"
        elif now < began - (1 - self.options.least_reward) * abs(began):
            self.why = f"step {state.global_step}: mean reward fell from {began:.4f} to {now:.4f}"
        if self.why:
            log.warning("stage %s stops early: %s; the best checkpoint so far is kept", self.options.block, self.why)
            control.should_training_stop = True


def rewarded(task: Task) -> list[Any]:
    """The rewards as TRL calls them, one function each; the first one also logs what a step should tell."""

    def of(name: str, first: bool) -> Callable[..., list[float]]:
        def reward(led, log_metric, **_: Any) -> list[float]:
            if first:
                log_metric("hit_rate", float(np.mean([task.hit(one) for one in led])))
                for part, seconds in task.drawing.seconds.items():
                    log_metric(f"{part}_seconds", seconds)
            return [task.rewards[name](one) for one in led]

        reward.__name__ = name
        return reward

    return [of(name, number == 0) for number, name in enumerate(task.weights)]


def arguments(
    options: ReinforcementOptions, temperature: float, seed: int, folder: Path, weights: Sequence[float],
    more: Mapping[str, Any],
) -> GRPOConfig:  # fmt: skip
    """Translate our options into TRL's, and add ``more`` of its own."""
    of = processes.count()
    many = options.prompts * options.group
    options.require_shares(of)
    return GRPOConfig(
        output_dir=str(folder / CHECKPOINTS),
        max_steps=options.steps * options.iterations,
        per_device_train_batch_size=many // options.passes // of,
        gradient_accumulation_steps=options.passes,
        num_generations=options.group,
        num_iterations=options.iterations,
        beta=options.kl,
        epsilon=options.clip,
        scale_rewards=options.scale,
        reward_weights=list(weights),
        temperature=temperature,
        loss_type="grpo",
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=int(options.warmup * options.steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        bf16=False,  # see ``RewardTrainer.dtype``
        gradient_checkpointing=options.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        ddp_backend="gloo" if of > 1 and not torch.cuda.is_available() else None,
        save_strategy="steps" if options.checkpoints else "no",
        save_steps=spacing(options.steps, options.checkpoints, 1),
        logging_steps=1,
        logging_nan_inf_filter=False,
        shuffle_dataset=False,  # drawn by seed already
        disable_tqdm=True,
        report_to="none",
        seed=seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        **more,
    )
