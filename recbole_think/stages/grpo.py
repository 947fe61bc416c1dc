"""GRPO by TRL: its trainer with our checkpoints and our way to read prompts, when to stop, our options in its words.

What is drawn and how it is rewarded comes in as functions (``rollout.py``, ``rewards.py``).
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from recbole_think.stages.checkpoints import spacing
from recbole_think.stages.options import EnhancementOptions
from recbole_think.stages.precision import choose
from recbole_think.stages.rewards import REWARDS, RewardOptions
from recbole_think.stages.rollout import Rollout
from recbole_think.stages.scored import scored
from recbole_think.stages.stage import CHECKPOINTS, Context, Outcome
from recbole_think.stages.training import LeanCheckpoints
from recbole_think.stages.validation import BestWeights

log = logging.getLogger(__name__)
MOST_LOGITS = 4096  # tokens of a dialect whose logits are made for every position
WINDOW = 5  # steps a mean is taken over before training is stopped
CURVES = {  # of TRL's log -> of ours
    "reward": "reward", "reward_std": "reward_spread", "frac_reward_zero_std": "groups_without_signal",
    "hit_rate": "hit_rate", "completions/mean_length": "rationale_tokens", "kl": "kl", "entropy": "entropy",
    "rollout_seconds": "rollout_seconds", "reward_seconds": "reward_seconds", "step_time": "step_seconds",
}  # fmt: skip


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


class RewardTrainer(LeanCheckpoints, GRPOTrainer):
    """TRL's trainer, with checkpoints of what learns alone, and prompts read once for all of their rationales."""

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **others
    ):
        """Score completions as TRL does (which reads a prompt anew for each), from rows that hold a prompt once.

        TRL's own way is taken where the dialect is so large that logits of every position would not fit.
        """
        if model.get_output_embeddings().weight.shape[0] > MOST_LOGITS:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **others
            )
        log_probs, entropy = scored(
            model, input_ids, attention_mask, logits_to_keep, self.temperature, self.accelerator
        )
        return log_probs, entropy if compute_entropy else None, None


class Stop(TrainerCallback):
    """Stops training whose reward collapses or whose policy runs away."""

    def __init__(self, options: EnhancementOptions):
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
            self.why = f"step {state.global_step}: KL {kl:.3f} is beyond enhancement.most_kl={self.options.most_kl}"
        elif now < began - (1 - self.options.least_reward) * abs(began):
            self.why = f"step {state.global_step}: mean reward fell from {began:.4f} to {now:.4f}"
        if self.why:
            log.warning("stage enhancement stops early: %s; the best checkpoint so far is kept", self.why)
            control.should_training_stop = True


def rewarded(options: RewardOptions, rollout: Rollout) -> list[Any]:
    """The rewards as TRL calls them, one function each; the first one also logs what a step should tell."""

    def of(name: str, first: bool) -> Callable[..., list[float]]:
        def reward(led, log_metric, **_: Any) -> list[float]:
            if first:
                log_metric("hit_rate", float(np.mean([REWARDS["hit"](one) for one in led])))
                for part, seconds in rollout.seconds.items():
                    log_metric(f"{part}_seconds", seconds)
            return [REWARDS[name](one) for one in led]

        reward.__name__ = name
        return reward

    return [of(name, number == 0) for number, name in enumerate(options.weighed)]


def arguments(options: EnhancementOptions, context: Context, folder: Path, rewards: RewardOptions) -> GRPOConfig:
    """Translate our options into TRL's."""
    config, many = context.model.config, options.prompts * options.rationales
    dtype = choose(options.precision, context.folder, config.hidden_size, config.intermediate_size)
    return GRPOConfig(
        output_dir=str(folder / CHECKPOINTS),
        max_steps=options.steps * options.iterations,
        per_device_train_batch_size=many // options.passes,
        gradient_accumulation_steps=options.passes,
        num_generations=options.rationales,
        num_iterations=options.iterations,
        beta=options.kl,
        epsilon=options.clip,
        scale_rewards=options.scale,
        reward_weights=list(rewards.weighed.values()),
        temperature=options.temperature,
        loss_type="grpo",
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=int(options.warmup * options.steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        bf16=dtype == torch.bfloat16,
        gradient_checkpointing=options.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps" if options.checkpoints else "no",
        save_steps=spacing(options.steps, options.checkpoints, 1),
        logging_steps=1,
        logging_nan_inf_filter=False,
        shuffle_dataset=False,  # drawn by seed already
        disable_tqdm=True,
        report_to="none",
        seed=context.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
