"""Training against the stock Hugging Face Trainer, same backbone, same precision, both in this process, in turn.

    python benchmarks/training.py [--layers=2] [--text_layers=30] [--repeats=3] [--seconds=6] [--only=text]

Recommendation: supervised items per second; the stock side reads one padded sample per (history, target) and takes the
loss over the whole vocabulary. Text: real tokens per second of the same packed rows, whose examples do not see one
another (the stock side is given the 4-D mask). Prints a table, writes benchmarks/results/training.json. Every figure is
the median of ``repeats`` blocks of ``seconds``, set-up and first step not counted; the figure to quote is the ratio.
Tokens are drawn at random, since speed does not depend on them.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import keep, medians, options
from floor import ADAM_BYTES, Product, attention_products, backward, bandwidth, layer_products, products_seconds
from transformers import Trainer, TrainingArguments
from world import random_codes, taught_backbone

from recbole_think.corpus.histories import from_pairs
from recbole_think.folder import cache_dir
from recbole_think.itemic.backbone import load_backbone
from recbole_think.itemic.options import BackboneOptions
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.memory import keep_memory
from recbole_think.prompts.batching import IGNORED, packed_rows
from recbole_think.prompts.tasks import Example, recommendation_frame, recommendation_prompt
from recbole_think.stages.batches import BatchPlan, into_batches
from recbole_think.stages.options import RecommendationOptions
from recbole_think.stages.probing import StopWatch, probe
from recbole_think.stages.recommendation import Recommendation
from recbole_think.stages.stage import Context
from recbole_think.stages.training import freeze_words

ITEMS, USERS, SIZE = 1682, 400, 64
MAX_HISTORY = 50
SAMPLES = 16  # of a stock batch: about as many tokens as one of ours
Side = Callable[[], float]  # one block -> units per second


def main() -> None:
    """Measure what was asked for, print and write it."""
    keep_memory()
    given = arguments()
    outcome: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, bench in {"recommendation": recommendation, "text": text}.items():
            if given.only in ("", name):
                sides, floor, setting = bench(given, Path(scratch))
                outcome[name] = {**setting, **blocks(sides, given.repeats), "floor": floor}
                report(name, outcome[name])
    keep("training", given, **outcome)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = options(__doc__, layers=2, text_layers=30, repeats=3, row_tokens=192, tokens_per_batch=2048)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a block; at least one step is measured")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--only", default="", choices=("", "recommendation", "text"))
    return parser.parse_args()


def blocks(sides: dict[str, Side], repeats: int) -> dict[str, Any]:
    """Run blocks of every side in turn; give all speeds, medians, and ratios to the first side."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            speeds[name].append(side())
    found = medians(speeds)
    stock = next(iter(found.values()))
    return {"speeds": speeds, "medians": found, "ratios": {name: value / stock for name, value in found.items()}}


def recommendation(given: argparse.Namespace, folder: Path) -> tuple[dict[str, Side], dict[str, float], dict]:
    """Items supervised per second."""
    context = world(given, given.layers, folder / "recommendation")
    options = RecommendationOptions(
        precision=given.precision, row_tokens=given.row_tokens, tokens_per_batch=given.tokens_per_batch, checkpoints=0,
        compile="never",
    )  # fmt: skip
    stage = Recommendation(options, MAX_HISTORY)
    plan = stage.plan(context)
    frame = len(recommendation_frame(context.vocabulary.tokenizer))
    levels = context.vocabulary.item_tokens.shape[1]
    examples = [example for batch in plan.batches for row in batch for example in row.examples]
    items = sum((len(example.input_ids) - frame) // levels - 1 for example in examples)

    def ours() -> float:
        with stage.learning(context.model):
            return items / plan.tokens / probe("recommendation", context, options, plan, given.seconds)

    samples = stock_samples(context)
    model = stock(given, given.layers, len(context.vocabulary.tokenizer))
    sides = {"stock": lambda: stock_speed(given, model, samples, folder, [SAMPLES] * len(samples)), "ours": ours}
    with stage.learning(context.model):
        seconds = floor_seconds(context, plan.batches[0], given, plain=False)
    return sides, {"ours": items / plan.tokens * tokens_of(plan.batches[0]) / seconds}, {"unit": "items/s"}


def text(given: argparse.Namespace, folder: Path) -> tuple[dict[str, Side], dict[str, float], dict]:
    """Real tokens of text read per second."""
    context = world(given, given.text_layers, folder / "text")
    dice = np.random.default_rng(0)
    examples = []
    for tokens in dice.integers(24, 128, 2000).tolist():
        ids = dice.integers(100, context.vocabulary.first, tokens)
        examples.append(Example(ids, np.arange(tokens) > 0, plain=True))
    pad = context.vocabulary.tokenizer.pad_token_id
    plan = BatchPlan(into_batches(packed_rows(examples, 0, given.row_tokens), given.tokens_per_batch), pad)

    def ours(compiling: str, words: bool) -> float:
        freeze_words(context.model)
        if words:
            context.model.requires_grad_(True)
        options = RecommendationOptions(precision=given.precision, checkpoints=0, dropout=0.0, compile=compiling)
        return 1 / probe("text", context, options, plan, given.seconds)

    model = stock(given, given.text_layers)
    batches = [stock_batch(plan[number]) for number in range(len(plan))]
    tokens = [tokens_of(batch) for batch in plan.batches]
    sides: dict[str, Side] = {
        "stock": lambda: stock_speed(given, model, batches, folder, tokens),
        "ours": lambda: ours("never", False),
        "ours, compiled": lambda: ours("always", False),
        "ours, compiled, words learn too": lambda: ours("always", True),
    }
    floor = {}
    for name, words in (("ours", False), ("words learn too", True)):
        freeze_words(context.model)
        if words:
            context.model.requires_grad_(True)
        floor[name] = tokens[0] / floor_seconds(context, plan.batches[0], given, plain=True)
    return sides, floor, {"unit": "tokens/s"}


def world(given: argparse.Namespace, layers: int, folder: Path) -> Context:
    """A backbone with random codes, and random histories."""
    dice = np.random.default_rng(0)
    model, vocabulary = taught_backbone(layers, random_codes(ITEMS, 2, SIZE), given.backbone)
    lengths = dice.integers(10, 150, USERS)
    users = np.repeat(np.arange(1, USERS + 1), lengths)
    histories = from_pairs(users, dice.integers(1, ITEMS + 1, len(users)), USERS + 1)
    folder.mkdir()
    return Context(
        folder=folder, model=model, vocabulary=vocabulary, histories=histories,
        validate=lambda users, think: 0.0, seed=0,
        facts={}, scalar=lambda *_: None, show_progress=False,
    )  # fmt: skip


def stock(given: argparse.Namespace, layers: int, rows: int = 0) -> Any:
    """The same backbone as it comes, attention too, with ``rows`` tokens if given; everything learns."""
    model: Any = load_backbone(BackboneOptions(given.backbone, layers), cache_dir(None), ["some words"])[0]
    model.set_attn_implementation("sdpa")
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def stock_samples(context: Context) -> list[dict[str, torch.Tensor]]:
    """Batches of padded samples, one per (history, target)."""
    vocabulary, dice = context.vocabulary, np.random.default_rng(1)
    frame = recommendation_frame(vocabulary.tokenizer)
    pairs = [(user, at) for user in range(1, USERS + 1) for at in range(1, len(context.histories.of(user)))]
    chosen = [pairs[place] for place in dice.permutation(len(pairs))[: 400 * SAMPLES]]
    batches = []
    for begin in range(0, len(chosen) - SAMPLES + 1, SAMPLES):
        samples = []
        for user, at in chosen[begin : begin + SAMPLES]:
            shown = context.histories.of(user)[max(0, at - MAX_HISTORY) : at + 1]
            samples.append(recommendation_prompt(frame, vocabulary, shown))
        batches.append(padded(samples, vocabulary))
    return batches


def padded(samples: list[np.ndarray], vocabulary: Vocabulary) -> dict[str, torch.Tensor]:
    """What the stock collator makes: padded on the right, loss on the last item."""
    levels, shape = vocabulary.item_tokens.shape[1], (len(samples), max(map(len, samples)))
    ids, mask = torch.full(shape, vocabulary.tokenizer.pad_token_id), torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED)
    for row, sample in enumerate(samples):
        ids[row, : len(sample)], mask[row, : len(sample)] = torch.from_numpy(sample), 1
        labels[row, len(sample) - levels : len(sample)] = torch.from_numpy(sample[-levels:])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def stock_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A packed batch as the stock model takes it: labels stand at their own token."""
    labels = torch.full_like(batch["labels"], IGNORED)
    labels[:, 1:] = batch["labels"][:, :-1]
    return {**{name: batch[name] for name in ("input_ids", "position_ids", "attention_mask")}, "labels": labels}


def stock_speed(given: argparse.Namespace, model: Any, batches: list, folder: Path, units: list[int]) -> float:
    """Units per second of the stock Trainer: AdamW fused, no gradient checkpointing."""
    watch = StopWatch(given.seconds)
    settings = TrainingArguments(
        output_dir=str(folder / "stock"), per_device_train_batch_size=1, max_steps=len(batches),
        train_sampling_strategy="sequential", bf16=given.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(), optim="adamw_torch_fused", save_strategy="no", logging_steps=10**6,
        disable_tqdm=True, report_to="none", dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=settings, train_dataset=batches, data_collator=lambda found: found[0], callbacks=[watch]
    )
    trainer.train()
    done = len(watch.ends)
    return sum(units[1:done]) / (watch.ends[-1] - watch.ends[0])


def tokens_of(batch: list) -> int:
    """Real tokens of a batch."""
    return sum(row.tokens for row in batch)


def floor_seconds(context: Context, batch: list, given: argparse.Namespace, plain: bool) -> float:
    """Least seconds of one step: every product, forward and backward, and the optimizer's bytes."""
    config, first = context.model.config, context.vocabulary.first
    width = max(row.tokens for row in batch)
    forward = layer_products(config, len(batch) * width, config.num_hidden_layers)
    forward += attention_products(config, len(batch), width, width, config.num_hidden_layers)
    products = [*forward, *backward(forward)]
    dtype = getattr(torch, given.precision)
    seconds = products_seconds(products, dtype)
    supervised = sum(int(example.supervised.sum()) for row in batch for example in row.examples)
    if plain:
        head = Product(supervised, config.hidden_size, first)
        of_input, of_weights = backward([head])
        learns = context.model.get_output_embeddings().text.weight.requires_grad
        seconds += products_seconds([head, of_input, *([of_weights] if learns else [])], dtype)
    else:
        head = Product(supervised // 2, config.hidden_size, SIZE, count=2)
        seconds += products_seconds([head, *backward([head])], torch.float32)
    learning = sum(value.numel() for value in context.model.parameters() if value.requires_grad)
    return seconds + ADAM_BYTES * learning / bandwidth()


def report(name: str, outcome: dict[str, Any]) -> None:
    """Print one table."""
    floor = ", ".join(f"{value:,.0f} ({side})" for side, value in outcome["floor"].items())
    print(f"{name}, {outcome['unit']}; floor {floor}; {torch.get_num_threads()} thread(s)")
    for side, median in outcome["medians"].items():
        spread = outcome["speeds"][side]
        print(f"  {side:<34}{median:>9,.0f}   min {min(spread):,.0f}  max {max(spread):,.0f}   "
              f"{outcome['ratios'][side]:.2f} x stock")  # fmt: skip


if __name__ == "__main__":
    main()
