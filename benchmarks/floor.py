"""The floor of a piece of work: its matrix products at their actual shapes, each timed alone in the same run and
precision, plus the bytes that cannot be avoided over the measured bandwidth. No program of ours can be faster.

The roofline of a piece of work is stricter: step after step, all operations at the rate of a large square product, or
all weights at the bandwidth, whichever takes longer. Small products reach neither.

N tokens, d hidden size, H heads, T tokens of a prompt, hd size of a head.
"""

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

REPEATS = 5
STREAM_BYTES = 512 * 2**20  # larger than any cache
SQUARE = 2048  # rows and columns of the product whose rate rooflines are drawn at
ADAM_BYTES = 28  # moved per float32 parameter that learns: weight, gradient and two moments read, three written


@dataclass(frozen=True)
class Product:
    """``count`` products [batch x rows, inner] @ [batch x inner, columns]."""

    rows: int
    inner: int
    columns: int
    count: int = 1
    batch: int = 1

    @property
    def flops(self) -> int:
        """Multiplications and additions of all of them."""
        return 2 * self.rows * self.inner * self.columns * self.batch * self.count

    @property
    def weights(self) -> int:
        """Numbers of the right operand, where it is a weight; keys and values are of a batch."""
        return self.inner * self.columns * self.count if self.batch == 1 else 0


Step = list[Product]  # what can be done at once: the next step needs its outcome


def products_seconds(products: Iterable[Product], dtype: torch.dtype) -> float:
    """Seconds of all products, each shape timed alone: the median of five, operands warm in cache."""
    return sum(
        product.count * _seconds(product.rows, product.inner, product.columns, product.batch, dtype)
        for product in products
    )


@cache
def _seconds(rows: int, inner: int, columns: int, batch: int, dtype: torch.dtype) -> float:
    left = torch.randn(batch, rows, inner).to(dtype)
    right = torch.randn(batch, columns, inner).to(dtype)
    left, right = (left, right) if batch > 1 else (left[0], right[0])
    multiply = torch.bmm if batch > 1 else torch.mm
    return median_seconds(lambda: multiply(left, right.transpose(-1, -2)), REPEATS)


def median_seconds(work, repeats: int) -> float:
    """Median wall seconds of ``work()`` after one call that sets up."""
    work()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


@cache
def bandwidth() -> float:
    """Bytes per second read from memory by a sum over half a gigabyte."""
    stream = torch.ones(STREAM_BYTES // 4)
    return STREAM_BYTES / median_seconds(stream.sum, REPEATS)


def layer_products(config: Any, tokens: int, count: int) -> list[Product]:
    """The projections of ``count`` layers for ``tokens`` tokens: query, key, value, output, gate, up, down."""
    width, inner = config.hidden_size, config.intermediate_size
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    size = head_size(config)
    return [
        Product(tokens, width, heads * size, count),
        Product(tokens, width, shared * size, 2 * count),
        Product(tokens, heads * size, width, count),
        Product(tokens, width, inner, 2 * count),
        Product(tokens, inner, width, count),
    ]


def attention_products(config: Any, users: int, queries: int, keys: int, count: int) -> list[Product]:
    """Scores and weighted sums of ``count`` layers: each user's queries against that user's keys."""
    heads, size = config.num_attention_heads, head_size(config)
    return [
        Product(queries, size, keys, count, users * heads),
        Product(queries, keys, size, count, users * heads),
    ]


def ranking_seconds(config: Any, lengths: list[int], beams: int, heads: list[int], dtype: torch.dtype) -> float:
    """Least seconds of ranking after prompts of ``lengths`` tokens, a batch that is read together.

    Prompts go through all layers but the last whole; of the last, keys and values of all tokens, the rest of the ends.
    Then the beams of all users go through all layers once a level, and each such step reads every weight once.

    Args:
        config: of the backbone.
        lengths: tokens of each prompt.
        beams: of each user, after the first level.
        heads: rows the hidden states are projected on, for each level.
        dtype: of the products.
    """
    users, layers, width = len(lengths), config.num_hidden_layers, config.hidden_size
    mean = round(sum(lengths) / users)
    work = [*prompt_step(config, lengths), Product(users, width, heads[0])]
    read = 0.0
    for rows in heads[1:]:
        step = [*layer_products(config, users * beams, layers), Product(users * beams, width, rows)]
        read += sum(one.weights for one in step) * dtype.itemsize / bandwidth()
        work += [*step, *attention_products(config, users, beams, mean, layers)]
    return products_seconds(work, dtype) + read


def prompt_step(config: Any, lengths: list[int]) -> Step:
    """Reading prompts: all layers but the last whole; of it keys and values of all tokens, the rest of the ends."""
    users, tokens, layers, width = len(lengths), sum(lengths), config.num_hidden_layers, config.hidden_size
    shared = config.num_key_value_heads * head_size(config)
    work = layer_products(config, tokens, layers - 1)
    for length in lengths:
        work += attention_products(config, 1, length, length, layers - 1)
    work.append(Product(tokens, width, shared, 2))
    work += [one for one in layer_products(config, users, 1) if one.columns != shared]
    return [*work, *attention_products(config, users, 1, round(tokens / users), 1)]


def branch_step(config: Any, rows: int, branches: int, keys: int, head: int) -> Step:
    """Reading one token of each branch of each row, which look at ``keys`` tokens; ``head`` rows of the head, 0 = none.

    Args:
        config: of the backbone.
        rows: whose branches share what they look at.
        branches: of each row.
        keys: tokens looked at.
        head: rows the hidden states are projected on.
    """
    many, layers = rows * branches, config.num_hidden_layers
    work = [*layer_products(config, many, layers), *attention_products(config, rows, branches, keys, layers)]
    return [*work, Product(many, config.hidden_size, head)] if head else work


def sampling_steps(config: Any, lengths: list[int], samples: int, tokens: int, words: int) -> list[Step]:
    """Drawing ``samples`` continuations of ``tokens`` tokens after each prompt, out of ``words``; all are read."""
    users, mean = len(lengths), round(sum(lengths) / len(lengths))
    first = [*prompt_step(config, lengths), Product(users, config.hidden_size, words)]
    later = [
        branch_step(config, users, samples, mean + place, words if place < tokens else 0)
        for place in range(1, tokens + 1)
    ]
    return [first, *later]


def beam_steps(config: Any, rows: int, beams: int, keys: int, heads: list[int]) -> list[Step]:
    """Beams of each of some rows that look at ``keys`` tokens, one head a level; what is before has been read."""
    first = [Product(rows, config.hidden_size, heads[0])]
    return [first, *(branch_step(config, rows, beams, keys, head) for head in heads[1:])]


def update_steps(config: Any, prompts: list[int], each: int, completion: int, words: int) -> list[Step]:
    """A policy gradient: everything is read forward and back, and forward once more by the reference.

    Words compete at the completions alone; their rows learn nothing.

    Args:
        config: of the backbone.
        prompts: tokens of every prompt that is read; TRL reads one for every completion.
        each: completions that go on from one reading of a prompt.
        completion: tokens of each.
        words: rows of the head.
    """
    layers, said = config.num_hidden_layers, len(prompts) * each * completion
    forward = layer_products(config, sum(prompts) + said, layers)
    for prompt in prompts:
        forward += attention_products(config, 1, prompt, prompt, layers)
        forward += attention_products(config, 1, each * completion, prompt + completion, layers)
    head = Product(said, config.hidden_size, words)
    of_input, _ = backward([head])
    return [[*forward, head], [*backward(forward), of_input], [*forward, head]]


def roofline_seconds(steps: Iterable[Step], dtype: torch.dtype) -> float:
    """Least seconds of steps one after the other: of each its operations or its weights, whichever takes longer."""
    return sum(
        max(
            sum(one.flops for one in step) / matmul_rate(dtype),
            sum(one.weights for one in step) * dtype.itemsize / bandwidth(),
        )
        for step in steps
    )


@cache
def matmul_rate(dtype: torch.dtype) -> float:
    """Operations per second of a large square product."""
    return Product(SQUARE, SQUARE, SQUARE).flops / _seconds(SQUARE, SQUARE, SQUARE, 1, dtype)


def backward(products: Iterable[Product]) -> list[Product]:
    """The two products behind each product of a forward pass: gradients of its input and of its weights."""
    found = []
    for one in products:
        found.append(Product(one.rows, one.columns, one.inner, one.count, one.batch))
        found.append(Product(one.inner, one.rows, one.columns, one.count, one.batch))
    return found


def head_size(config: Any) -> int:
    """Size of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
