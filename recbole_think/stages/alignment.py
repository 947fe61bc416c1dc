"""Itemic alignment, the first stage of OneRec-Think: token warm-up, then multi-task integration.

Warm-up: only the itemic rows learn, from persona texts, so that new tokens find their place in a language that stays as
it is (gradients flow through the frozen weights, none are made for them). Integration: tasks mixed by share of
examples, the paper's four and two of MiniOneRec's and LC-Rec's that have no share unless given one; full parameters or
LoRA. Items, users and general texts that are held out are never trained on, and the weights with the lowest loss on
them are kept. Where we depart: rows of words stay frozen unless asked for, since a backbone of few layers is mostly
words; and the sequential task supervises every item of a history, not the last alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch

from recbole_think.prompts.batching import packed_batch, packed_rows
from recbole_think.prompts.material import Material, mixed_rows
from recbole_think.stages.adapters import adapted
from recbole_think.stages.batches import BatchPlan, into_batches
from recbole_think.stages.loss import perplexity, token_loss
from recbole_think.stages.options import MultiTaskOptions, TrainingOptions, WarmupOptions
from recbole_think.stages.precision import autocast
from recbole_think.stages.stage import Context, Outcome
from recbole_think.stages.training import freeze_words, train

HELD_OUT_EXAMPLES = 64  # of each task, at most: enough for a loss
HELD_OUT_TOKENS = 4096  # of a batch of them


class TokenWarmup:
    """First half: the itemic rows alone."""

    name = "token_warmup"

    def __init__(self, options: WarmupOptions, material: Callable[[], Material], judge: Callable[[Any], dict]):
        self.options, self.material, self.judge = options, material, judge

    def learning(self, model: Any) -> AbstractContextManager:
        """Let the itemic rows learn, and nothing else."""
        model.requires_grad_(False)
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            module.rows.requires_grad_(True)
        return nullcontext()

    def plan(self, context: Context) -> BatchPlan:
        """Persona texts alone."""
        return _plan(self.material(), {"persona": 1.0}, self.options)

    def run(self, context: Context) -> Outcome:
        """Teach the new rows alone, from persona texts."""
        return _aligned(self, context, {"persona": 1.0})


class MultiTask:
    """Second half: all tasks together."""

    name = "multi_task"

    def __init__(self, options: MultiTaskOptions, material: Callable[[], Material], judge: Callable[[Any], dict]):
        self.options, self.material, self.judge = options, material, judge

    def learning(self, model: Any) -> AbstractContextManager:
        """Let everything learn but the rows of words, unless those are wanted too, or adapters in its place."""
        freeze_words(model)
        if self.options.train_words:
            model.requires_grad_(True)
        return adapted(model, self.options.lora_rank)

    def plan(self, context: Context) -> BatchPlan:
        """Tasks mixed by share."""
        return _plan(self.material(), self.options.shares, self.options, not self.options.every_position)

    def run(self, context: Context) -> Outcome:
        """Teach all tasks together; keep the weights with the lowest held-out loss."""
        return _aligned(self, context, self.options.shares, last_only=not self.options.every_position)


def _plan(
    material: Material, shares: dict[str, float], options: WarmupOptions | MultiTaskOptions, last_only: bool = False
) -> BatchPlan:
    rows = mixed_rows(material, shares, options.tokens, options.row_tokens, last_only)
    return BatchPlan(into_batches(rows, options.tokens_per_batch), material.vocabulary.tokenizer.pad_token_id)


def _aligned(
    stage: TokenWarmup | MultiTask, context: Context, shares: dict[str, float], last_only: bool = False
) -> Outcome:
    """Train on the stage's plan, validate by the loss on what is held out, and measure what was learnt."""
    validate = held_out_score(context, stage.material(), shares, stage.options, last_only)
    with stage.learning(context.model):
        outcome = train(stage.name, context, stage.options, stage.plan(context), validate)
    context.model.eval()
    outcome.figures = stage.judge(context.model)
    return outcome


def held_out_batches(material: Material, task: str, last_only: bool = False) -> list[dict[str, torch.Tensor]]:
    """Batches of the held-out examples of a task; the same ones whenever asked."""
    generator = np.random.default_rng([material.seed, 4000])
    examples = list(islice(material.examples(task, True, generator, last_only), HELD_OUT_EXAMPLES))
    rows = packed_rows(examples, material.prefixes[task], 1)  # one example a row
    pad = material.vocabulary.tokenizer.pad_token_id
    return [packed_batch(batch, pad) for batch in into_batches(rows, HELD_OUT_TOKENS)]


def held_out_score(
    context: Context, material: Material, shares: dict[str, float], options: TrainingOptions, last_only: bool
) -> Callable[[], float]:
    """Return what scores a model: minus its loss on held-out examples, tasks weighted by share; bigger is better."""
    batches = {name: held_out_batches(material, name, last_only) for name, share in shares.items() if share > 0}

    @torch.no_grad()
    def score() -> float:
        total = weight = 0.0
        with autocast(context.model, options.precision, context.folder):
            for name, of_task in batches.items():
                if of_task:
                    losses = [token_loss(context.model, b, material.vocabulary.code_tokens, 0.0) for b in of_task]
                    total += shares[name] * float(torch.stack(losses).mean())
                    weight += shares[name]
        return -total / weight if weight else 0.0

    return score


def general_perplexity(model: Any, material: Material, words_alone: bool) -> float:
    """Perplexity of the held-out general texts, in float32."""
    return perplexity(model, held_out_batches(material, "general"), words_alone)
