"""Operations and bytes of reading, thinking, searching and learning, and the least time they take.

Takes sizes, gives steps: what can be done at once, each of which needs the outcome of the one before. A step takes its
operations at some rate, or its bytes at some bandwidth, whichever is longer (the roofline of ``benchmarks/floor.py``,
which lists the same products one by one; here keys and values count among the bytes as well).

W weights of all layers, w of one, c of one that make keys and values, L layers, d hidden size, H heads of size h,
k keys and values of a token in all layers, b bytes of a number. U users, T tokens of a prompt, N thoughts of a user,
K beams.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recbole_think.plan.backbones import Backbone

SCORE_BYTES = 5 * 4  # of a word or code that may follow: logit, log-probability and what comes of them, float32
CHILD_BYTES = 8 + 8 + 1  # of a code: node of the trie, code, whether there is such a node


@dataclass(frozen=True)
class Step:
    """Work that is done at once."""

    flops: float
    bytes: float  # read from memory, or written

    def __add__(self, other: "Step") -> "Step":
        """Both at once."""
        return Step(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Pace:
    """What a machine reaches."""

    flops_per_s: float
    bytes_per_s: float
    step_s: float = 0.0  # least time of a step

    def seconds(self, steps: Iterable[Step]) -> float:
        """Sum over steps of max(operations / rate, bytes / bandwidth, least time of a step)."""
        return sum(max(step.flops / self.flops_per_s, step.bytes / self.bytes_per_s, self.step_s) for step in steps)


def learning_flops(model: Backbone, tokens: float, row_tokens: float, head_rows: int) -> float:
    """Operations of learning from some tokens: tokens x (6 (W + d rows) + 6 L H h row).

    Forward 2 and backward 4 for every weight and row of the head; attention is causal: a token sees half of its row.
    """
    attention = 6 * model.num_hidden_layers * model.attention_size * row_tokens
    return tokens * (6 * (model.weights + model.hidden_size * head_rows) + attention)


@dataclass(frozen=True)
class Inference:
    """Counts what a backbone does when it answers."""

    model: Backbone
    number_bytes: int

    def reading(self, users: int, tokens: float, before: float = 0) -> Step:
        """Read T = ``tokens`` of each user that follow P = ``before`` whose keys and values are kept.

        Operations of a user: 2 (W - w + c) T + 2 (w - c) + 4 H h ((L - 1) T + 1) (P + T): of the last layer all tokens
        need keys and values, the last one alone needs the rest. Bytes: b (W + U k (P + T)).
        """
        model = self.model
        rest = model.layer_weights - model.key_value_weights
        attention = 4 * model.attention_size * ((model.num_hidden_layers - 1) * tokens + 1) * (before + tokens)
        flops = 2 * (model.weights - rest) * tokens + 2 * rest + attention
        moved = model.weights + users * model.cache_numbers * (before + tokens)
        return Step(users * flops, self.number_bytes * moved)

    def head(self, states: float, rows: int) -> Step:
        """Logits of ``rows`` tokens after each of some hidden states, and what is made of them.

        Operations: 2 d rows each. Bytes: b d rows, and 40 a logit, 20 of which are written and read again.
        """
        numbers = self.model.hidden_size * rows
        return Step(2 * numbers * states, self.number_bytes * numbers + 2 * SCORE_BYTES * states * rows)

    def branching(self, users: int, each: float, seen: float, kept: float) -> Step:
        """Read one token of each of ``each`` branches of a user.

        Operations of a branch: 2 W + 4 L H h seen. Bytes: b (W + U k kept).

        Args:
            users: U.
            each: branches of a user.
            seen: tokens a branch looks at.
            kept: tokens whose keys and values a user has, shared ones once.
        """
        model = self.model
        attention = 4 * model.num_hidden_layers * model.attention_size * seen
        moved = model.weights + users * model.cache_numbers * kept
        return Step(users * each * (2 * model.weights + attention), self.number_bytes * moved)

    def sampling(self, users: int, prompt: float, thoughts: int, tokens: int, words: int) -> list[Step]:
        """Draw N thoughts of some tokens after prompts of T: one reading, then a step a token, the last one only read.

        The token at place s looks at T + s tokens; a user keeps T + N s.
        """
        steps = [self.reading(users, prompt) + self.head(users, words)]
        for place in range(1, tokens + 1):
            step = self.branching(users, thoughts, prompt + place, prompt + thoughts * place)
            steps.append(step + self.head(users * thoughts, words) if place < tokens else step)
        return steps

    def searching(
        self, users: int, rows: int, beams: int, seen: float, kept: float, sizes: Sequence[int]
    ) -> list[Step]:
        """Follow K beams of each of some places down levels of codes; what they begin from has been read.

        The first level is one head. Each further one reads a token of min(K, number of prefixes so far) beams, which
        look at what their place does and at their own tokens, and is a head.

        Args:
            users: U.
            rows: places of a user: 1 after a prompt, N after thoughts.
            beams: K.
            seen: tokens looked at from each place.
            kept: tokens whose keys and values a user has before the search.
            sizes: codes of each level.
        """
        steps, prefixes = [self.head(users * rows, sizes[0])], 1
        for depth, size in enumerate(sizes[1:], start=1):
            prefixes *= sizes[depth - 1]
            each = rows * min(beams, prefixes)
            step = self.branching(users, each, seen + depth, kept + each * depth)
            steps.append(step + self.head(users * each, size))
        return steps

    def cache_bytes(self, tokens: float) -> float:
        """b k tokens: keys and values that are kept."""
        return self.number_bytes * self.model.cache_numbers * tokens

    def workspace_bytes(self, tokens: float) -> float:
        """4 (7 d + 3 f) tokens: the widest moment of reading them at once, inside a feed-forward layer, in float32.

        What ``decoding/packed.py`` holds then: the residual stream and its norm, each before and after attention,
        queries, what they found, its projection; and gate, value and product of the layer.
        """
        return 4 * (7 * self.model.hidden_size + 3 * self.model.intermediate_size) * tokens


def candidate_bytes(branches: float, size: int) -> float:
    """37 bytes for each of ``size`` codes after each branch: what ``decoding/beam.py`` holds while it compares them."""
    return (CHILD_BYTES + SCORE_BYTES) * branches * size


def word_bytes(branches: float, words: int) -> float:
    """20 bytes for each word after each branch: what ``decoding/sampling.py`` holds while it draws one."""
    return float(SCORE_BYTES) * branches * words
