"""What each part of a fast training step gains by itself: forward and backward of one step with and without it.

    python benchmarks/training_parts.py [--layers=10] [--row_tokens=192] [--repeats=7]

CPU seconds of one batch of text (2,048 tokens at most, whole vocabulary, bfloat16), medians, in turn: the plain
way (transformers' eager attention, logits of all positions at once), each part alone, all parts. Prints a table.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from bench import options
from torch.nn import functional
from training import world

from recbole_think.memory import keep_memory
from recbole_think.prompts.batching import IGNORED, packed_batch, packed_rows
from recbole_think.prompts.tasks import Example
from recbole_think.stages.attention import folded
from recbole_think.stages.batches import into_batches
from recbole_think.stages.compiling import compiled
from recbole_think.stages.cross_entropy import vocabulary_loss
from recbole_think.stages.training import freeze_words


def main() -> None:
    """Time every variant in turn and print the table."""
    keep_memory()
    parser = options(__doc__, layers=10, row_tokens=192, repeats=7, tokens_per_batch=2048)
    parser.add_argument("--backbone", default="smollm2-135m")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        context = world(given, given.layers, Path(scratch) / "world")
    model, batch = context.model.train(), text_batch(given)
    variants: dict[str, tuple[str, bool, bool]] = {
        "plain": ("eager", False, False),
        "fused attention (sdpa)": ("sdpa", False, False),
        "folded attention": ("folded", False, False),
        "chunked cross-entropy": ("eager", True, False),
        "compiled layers": ("eager", False, True),
        "folded, chunked": ("folded", True, False),
        "folded, chunked, compiled": ("folded", True, True),
    }
    for words_learn in (False, True):
        freeze_words(model)
        model.requires_grad_(True) if words_learn else None
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(given.repeats):
            for name, (attention, chunked, compiling) in variants.items():
                seconds[name].append(timed(model, batch, attention, chunked, compiling))
        medians = {name: statistics.median(found) for name, found in seconds.items()}
        print(f"words {'learn' if words_learn else 'frozen'}, {given.layers} layers, rows of {given.row_tokens}")
        for name, value in medians.items():
            print(f"  {name:<28}{value:>8.3f} s   {medians['plain'] / value:.2f} x")


def text_batch(given: argparse.Namespace) -> dict[str, torch.Tensor]:
    """The first batch of random text."""
    dice = np.random.default_rng(0)
    examples = [Example(dice.integers(100, 49000, n), np.arange(n) > 0, plain=True) for n in dice.integers(24, 128, 99)]
    return packed_batch(into_batches(packed_rows(examples, 0, given.row_tokens), given.tokens_per_batch)[0], 0)


def timed(model, batch, attention: str, chunked: bool, compiling: bool) -> float:
    """CPU seconds of the second of two steps: the first one sets up."""
    model.set_attn_implementation("sdpa" if attention == "sdpa" else "eager")
    with folded(model) if attention == "folded" else nullcontext(), compiled(model, compiling):
        step(model, batch, chunked)
        start = time.process_time()
        step(model, batch, chunked)
        return time.process_time() - start


def step(model, batch, chunked: bool) -> None:
    """Forward and backward; gradients are thrown away."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.get_decoder()(
            inputs_embeds=model.get_input_embeddings()(batch["input_ids"]), attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"], use_cache=False,
        ).last_hidden_state  # fmt: skip
        chosen = batch["labels"] != IGNORED
        hidden, targets, head = hidden[chosen], batch["labels"][chosen], model.get_output_embeddings()
        if chunked:
            loss = vocabulary_loss(head, hidden, targets)
        else:
            loss = functional.cross_entropy(head(hidden).float(), targets, reduction="sum")
        loss = loss / len(targets)
    loss.backward()
    model.zero_grad()


if __name__ == "__main__":
    main()
