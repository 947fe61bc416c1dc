"""Recommendation stage: next-item supervised fine-tuning with every position of a history supervised in one pass.

Where we depart from the official code (which trains on one sample per user, with loss on padding): all positions of
all training histories, loss on itemic tokens alone, and a softmax over the codes of the level at hand instead of the
whole vocabulary, since a trie will never let a word follow there. Word rows stay frozen.
Transformers' Trainer runs the loop; batches are planned for all epochs beforehand, so that schedules count steps and
an interrupted run goes on with the very batch it missed.

N supervised positions of a batch, S codes of a level, d hidden size.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from recbole_think.artifacts import disk_guard, load_tensors, save_tensors
from recbole_think.errors import InputError
from recbole_think.prompts.batching import IGNORED, packed_batch, packed_rows
from recbole_think.prompts.tasks import recommendation_example, recommendation_frame, windows
from recbole_think.stages.checkpoints import last_checkpoint, spacing, whole_checkpoint
from recbole_think.stages.options import RecommendationOptions
from recbole_think.stages.precision import choose
from recbole_think.stages.progress import use_bar
from recbole_think.stages.stage import BEST, CHECKPOINTS, Context, Outcome, load_weights, trainable
from recbole_think.stages.validation import BestWeights

log = logging.getLogger(__name__)


class Recommendation:
    """The stage."""

    name = "recommendation"

    def __init__(self, options: RecommendationOptions, max_history: int):
        self.options = options
        self.max_history = max_history

    def run(self, context: Context) -> Outcome:
        """Fine-tune on every transition of the training histories; keep the weights validation liked best."""
        set_seed(context.seed)
        freeze_words(context.model)
        plan = BatchPlan(context, self.options, self.max_history)
        folder = context.folder / self.name
        best = BestWeights(context, self.options, folder, len(plan))
        trainer = CodeTrainer(
            model=context.model,
            args=arguments(self.options, context, folder, len(plan)),
            train_dataset=plan,
            data_collator=lambda batches: batches[0],  # a planned batch is already whole
            callbacks=[best],
            vocabulary=context.vocabulary,
            options=self.options,
        )
        use_bar(trainer, self.name, context.show_progress)
        with disk_guard(folder):
            trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        load_weights(context.model, load_tensors(folder / BEST))
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        return Outcome(losses[-1], plan.tokens, len(plan), best.score, best.curve(trainer.state.log_history))


def freeze_words(model: Any) -> None:
    """Let everything learn but the rows of words, in and out."""
    model.requires_grad_(True)
    model.get_input_embeddings().text.requires_grad_(False)
    model.get_output_embeddings().text.requires_grad_(False)


def code_loss(model, batch: dict[str, Tensor], code_tokens: list[Tensor], dropout: float) -> Tensor:
    """Mean cross-entropy of the supervised itemic tokens, each among the codes of its own level.

    Args:
        model: causal LM with itemic rows.
        batch: what ``packed_batch`` gives; labels stand at the position that predicts them.
        code_tokens: L int64 tensors of token ids.
        dropout: share of embedded features dropped while training.
    """
    embedded = model.get_input_embeddings()(batch["input_ids"])
    embedded = functional.dropout(embedded, dropout, model.training)
    out = model.get_decoder()(
        inputs_embeds=embedded,
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
    )
    chosen = batch["labels"] != IGNORED
    hidden, targets = out.last_hidden_state[chosen], batch["labels"][chosen]  # [N, d], [N]
    head, total = model.get_output_embeddings(), torch.zeros((), device=hidden.device)
    for tokens in code_tokens:
        of_level = (targets >= tokens[0]) & (targets <= tokens[-1])
        logits = head.code_logits(hidden[of_level], tokens)  # float32 [N_level, S]
        total = total + functional.cross_entropy(logits, targets[of_level] - tokens[0], reduction="sum")
    return total / len(targets)


class BatchPlan(Dataset):
    """All batches of all epochs, in order: item i is the i-th optimizer step's packed batch."""

    def __init__(self, context: Context, options: RecommendationOptions, max_history: int):
        self.vocabulary = context.vocabulary
        self.frame = recommendation_frame(self.vocabulary.tokenizer)
        self.pad = self.vocabulary.tokenizer.pad_token_id
        self.batches: list[list[list[np.ndarray]]] = []  # batch -> row -> windows of items
        self.tokens = 0
        levels, shared = self.vocabulary.item_tokens.shape[1], len(self.frame)
        for epoch in range(options.epochs):
            generator = np.random.default_rng([context.seed, epoch])
            cut = list(windows(context.histories, max_history + 1, generator))
            if not cut:
                raise InputError("no user has two training events: there is no transition to learn from")
            lengths = [shared + levels * len(window) for window in cut]
            rows = packed_rows(lengths, shared, max(options.row_tokens, *lengths))
            self.tokens += sum(lengths) - shared * (len(lengths) - len(rows))
            longest = max(shared + sum(lengths[i] - shared for i in row) for row in rows)
            count = max(1, options.tokens_per_batch // longest)
            self.batches += [
                [[cut[i] for i in row] for row in rows[at : at + count]] for at in range(0, len(rows), count)
            ]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rows = [[recommendation_example(self.frame, self.vocabulary, w) for w in row] for row in self.batches[index]]
        return packed_batch(rows, len(self.frame), self.pad)


class CodeTrainer(Trainer):
    """Transformers' Trainer with the itemic loss, two learning rates, and checkpoints of what learns alone."""

    def __init__(self, *args, vocabulary, options: RecommendationOptions, **kwargs):
        super().__init__(*args, **kwargs)
        self.model: Any  # transformers allows None, we never do
        self.code_tokens, self.options = vocabulary.code_tokens, options

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the itemic cross-entropy of a planned batch."""
        # said here, since the trainer's own autocast wraps model.forward, which code_loss goes past
        with torch.autocast(inputs["input_ids"].device.type, torch.bfloat16, enabled=self.args.bf16):
            loss = code_loss(model, inputs, self.code_tokens, self.options.dropout)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"stage recommendation, step {self.state.global_step}: the loss is {loss.item()}; the last good "
                f"checkpoint is kept; lower recommendation.learning_rate and run again"
            )
        return (loss, None) if return_outputs else loss

    def create_optimizer(self, model=None):
        """AdamW; no decay on vectors (norms) and itemic rows, which also have a learning rate of their own."""
        if self.optimizer is None:
            named = trainable(self.model)
            rows = [value for name, value in named.items() if name.endswith(".rows")]
            flat = [value for name, value in named.items() if value.ndim < 2]
            rest = [value for name, value in named.items() if value.ndim >= 2 and not name.endswith(".rows")]
            options = self.options
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": rest, "lr": options.learning_rate, "weight_decay": options.weight_decay},
                    {"params": flat, "lr": options.learning_rate, "weight_decay": 0.0},
                    {"params": rows, "lr": options.row_learning_rate, "weight_decay": 0.0},
                ],
                betas=(0.9, 0.98),
                fused=True,
            )
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict=None):
        save_tensors(Path(str(output_dir or self.args.output_dir)) / "weights.safetensors", trainable(self.model))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        load_weights(self.model, load_tensors(Path(str(resume_from_checkpoint)) / "weights.safetensors"))

    def _save_checkpoint(self, model, trial):
        with whole_checkpoint(Path(str(self.args.output_dir)), self.state.global_step):
            super()._save_checkpoint(model, trial)


def arguments(options: RecommendationOptions, context: Context, folder: Path, steps: int) -> TrainingArguments:
    """Translate our options into transformers' (one planned batch is one step, all epochs are one pass)."""
    config = context.model.config
    dtype = choose(options.precision, context.folder, config.hidden_size, config.intermediate_size)
    logging_steps = max(1, steps // 50)
    return TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        per_device_train_batch_size=1,
        max_steps=steps,
        train_sampling_strategy="sequential",
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(options.warmup * steps),
        max_grad_norm=options.max_grad_norm,
        bf16=dtype == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps" if options.checkpoints else "no",
        save_steps=spacing(steps, options.checkpoints, logging_steps),
        save_total_limit=None,  # whole_checkpoint deletes the others, once the new one is whole
        logging_steps=logging_steps,
        logging_nan_inf_filter=False,
        disable_tqdm=True,  # see progress.py
        report_to="none",
        seed=context.seed,
        data_seed=context.seed,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
