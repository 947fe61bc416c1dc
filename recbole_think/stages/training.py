"""How every supervised stage is trained: transformers' Trainer over batches planned beforehand (``batches.py``).

Validation picks the weights that are kept.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainingArguments, set_seed

from recbole_think import processes
from recbole_think.artifacts import disk_guard, load_tensors
from recbole_think.stages.adapters import adapted
from recbole_think.stages.attention import folded
from recbole_think.stages.batches import BatchPlan
from recbole_think.stages.checkpoints import spacing
from recbole_think.stages.compiling import compiled, worth_it
from recbole_think.stages.dropping import dropping
from recbole_think.stages.lean_checkpoints import LeanCheckpoints
from recbole_think.stages.loss import token_loss
from recbole_think.stages.options import StageOptions, TrainingOptions, WeightOptions
from recbole_think.stages.precision import choose
from recbole_think.stages.progress import use_bar
from recbole_think.stages.sharding import Learner
from recbole_think.stages.stage import BEST, CHECKPOINTS, Context, Outcome, load_weights, trainable
from recbole_think.stages.validation import BestWeights


@contextmanager
def recomputed(model: Any, wanted: bool) -> Iterator[None]:
    """Within the block layers keep no activations and are computed again in the backward pass, if wanted."""
    if wanted:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        if wanted:
            model.gradient_checkpointing_disable()


@contextmanager
def layers_learning(model: Any, options: Any) -> Iterator[None]:
    """Let everything learn but the rows of words, or adapters in its place; dropout in the layers.

    Args:
        model: causal LM with itemic rows.
        options: with ``lora_rank``, ``hidden_dropout`` and ``attention_dropout``.
    """
    freeze_words(model)
    with adapted(model, options.lora_rank), dropping(model, options.hidden_dropout, options.attention_dropout):
        yield


def freeze_words(model: Any) -> None:
    """Let everything learn but the rows of words, in and out."""
    model.requires_grad_(True)
    model.get_input_embeddings().text.requires_grad_(False)
    model.get_output_embeddings().text.requires_grad_(False)


def train(
    name: str, context: Context, options: TrainingOptions, plan: BatchPlan, validate: Callable[[], float],
    words: Tensor | None = None,
) -> Outcome:  # fmt: skip
    """Train what learns in ``context.model`` on the plan, ending with the weights validation liked best.

    Args:
        name: of the stage, or of a folder within its own.
        context: what every stage is given.
        options: of the stage.
        plan: every step's batch.
        validate: scores the model as it is; bigger is better.
        words: int64 [W], what plain tokens are predicted out of; None = all words and codes.
    """
    set_seed(context.seed)
    folder = context.folder / name
    dtype = precise(options, context)
    learner = Learner(context.model, context.sharding, dtype if getattr(options, "four_bit", False) else None)
    model = learner.model
    compiling = not learner.apart and worth_it(options.compile, model, plan.tokens)
    remade = recomputed(model, options.gradient_checkpointing)
    with disk_guard(folder), learner, remade, folded(model), compiled(model, compiling) as eager:
        best = BestWeights(context, eager(validate), options.validations, folder, len(plan), learner=learner)
        trainer = planned_trainer(folder, context, options, plan, learner, best, words)
        use_bar(trainer, options.block, context.show_progress)
        trainer.learn(folder)
    load_weights(context.model, load_tensors(folder / BEST))
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return Outcome(losses[-1], plan.tokens, len(plan), best.score, best.curve(trainer.state.log_history))


def planned_trainer(
    folder: Path, context: Context, options: TrainingOptions, plan: BatchPlan, learner: Learner, watch: TrainerCallback,
    words: Tensor | None = None,
) -> "TokenTrainer":  # fmt: skip
    """Return what trains ``learner`` on a plan and is watched while it does; see ``train``."""
    dtype, codes = precise(options, context), context.vocabulary.code_tokens
    return TokenTrainer(
        model=learner.cut(Taught(learner.model, codes, options.dropout, words, dtype, learner.rows)),
        args=arguments(options, context, folder, len(plan), learner),
        train_dataset=plan,
        data_collator=lambda batches: batches[0],  # a planned batch is already whole
        callbacks=[watch],
        options=options,
        learner=learner,
    )


class Taught(nn.Module):
    """A language model whose output is its loss on a planned batch, as wrappers for many processes want it."""

    def __init__(
        self, model: Any, code_tokens: list[Tensor], dropout: float, words: Tensor | None = None,
        dtype: torch.dtype = torch.float32, rows: Callable[[], Iterable[Tensor]] = tuple,
    ):  # fmt: skip
        """See ``token_loss``; products are taken in ``dtype``, and ``rows`` have gradients whatever a batch holds."""
        super().__init__()
        self.model = model
        self.code_tokens, self.dropout, self.words, self.dtype = code_tokens, dropout, words, dtype
        self.rows = rows

    def forward(self, **batch: Tensor) -> Tensor:
        """Mean cross-entropy of the supervised tokens, a scalar."""
        with products_in(self.dtype, batch["input_ids"].device):
            loss = token_loss(self.model, batch, self.code_tokens, self.dropout, self.words)
        return loss + sum(0.0 * value.sum() for value in self.rows() if value.requires_grad)


class TokenTrainer(LeanCheckpoints):
    """The trainer of supervised stages: our loss, and two learning rates."""

    def __init__(self, *args, options: TrainingOptions, **kwargs):
        super().__init__(*args, **kwargs)
        self.options = options

    def get_train_dataloader(self) -> DataLoader:
        """Every process goes through all batches, of which the plan gives it its share."""
        if processes.count() == 1:
            return super().get_train_dataloader()
        return DataLoader(cast(Dataset, self.train_dataset), collate_fn=self.data_collator)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the cross-entropy of a planned batch."""
        loss = model(**inputs)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"stage {self.options.block}, step {self.state.global_step}: the loss is {loss.item()}; the last good "
                f"checkpoint is kept; lower the learning rates of block {self.options.block} and run again"
            )
        return (loss, None) if return_outputs else loss

    def create_optimizer(self, model=None):
        """AdamW; no decay on vectors (norms) and itemic rows, which also have a learning rate of their own."""
        if self.optimizer is None:
            named = trainable(self.model)
            rows = [value for name, value in named.items() if name.endswith(".rows")]
            flat = [value for name, value in named.items() if value.ndim < 2]
            rest = [value for name, value in named.items() if value.ndim >= 2 and not name.endswith(".rows")]
            groups: list[dict[str, Any]] = [{"params": rows, "lr": self.options.row_learning_rate, "weight_decay": 0.0}]
            if isinstance(self.options, WeightOptions):
                rate = self.options.learning_rate
                groups.append({"params": rest, "lr": rate, "weight_decay": self.options.weight_decay})
                groups.append({"params": flat, "lr": rate, "weight_decay": 0.0})
            learning = [group for group in groups if group["params"]]
            self.optimizer = torch.optim.AdamW(learning, betas=(0.9, 0.98), fused=True)
        return super().create_optimizer()


def precise(options: StageOptions, context: Context) -> torch.dtype:
    """What products of a stage are taken in."""
    config = context.model.config
    return choose(options.precision, context.folder, config.hidden_size, config.intermediate_size)


def products_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Within the block products are taken in ``dtype``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def arguments(
    options: TrainingOptions, context: Context, folder: Path, steps: int, learner: Learner
) -> TrainingArguments:
    """Translate our options into transformers' (one planned batch is one step, all epochs are one pass)."""
    logging_steps = max(1, steps // 50)
    return TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        per_device_train_batch_size=1,
        max_steps=steps,
        train_sampling_strategy="sequential",
        learning_rate=options.row_learning_rate,  # each group of the optimizer has its own
        lr_scheduler_type="cosine",
        warmup_steps=int(options.warmup * steps),
        max_grad_norm=options.max_grad_norm,
        use_cpu=not torch.cuda.is_available(),
        ddp_backend="gloo" if processes.count() > 1 and not torch.cuda.is_available() else None,
        save_strategy="steps" if options.checkpoints else "no",
        save_steps=spacing(steps, options.checkpoints, logging_steps),
        save_total_limit=None,  # whole_checkpoint deletes the others, once the new one is whole
        logging_steps=logging_steps,
        logging_nan_inf_filter=False,
        disable_tqdm=True,  # see progress.py
        report_to="none",
        seed=context.seed + processes.number(),  # of dropout, which falls elsewhere in every share
        data_seed=context.seed,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        **learner.arguments(),
    )
