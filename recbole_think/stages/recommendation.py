"""Recommendation stage: next-item supervised fine-tuning with every position of a history supervised in one pass.

Where we depart from the official code (which trains on one sample per user, with loss on padding): all positions of
all training histories, loss on itemic tokens alone, and a softmax over the codes of the level at hand instead of the
whole vocabulary, since a trie will never let a word follow there. Word rows stay frozen.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from recbole_think.corpus.histories import spans
from recbole_think.errors import InputError
from recbole_think.prompts.batching import Row, packed_rows
from recbole_think.prompts.tasks import recommendation_example, recommendation_frame
from recbole_think.stages.batches import BatchPlan, into_batches, up_to
from recbole_think.stages.lessons import Lessons, taught_histories
from recbole_think.stages.options import RecommendationOptions
from recbole_think.stages.stage import Context, Outcome
from recbole_think.stages.training import layers_learning, train


class Recommendation:
    """The stage."""

    name = "recommendation"

    def __init__(
        self,
        options: RecommendationOptions,
        max_history: int,
        lessons: Callable[[], Lessons] | None = None,
        leans_on: Mapping[str, Any] | None = None,
    ):
        """Take what the stage leans on.

        Args:
            options: of the stage.
            max_history: latest items a prompt shows.
            lessons: gives what teachers say of training histories, where any teach.
            leans_on: what decides what teachers say.
        """
        self.options, self.max_history, self.lessons = options, max_history, lessons
        self.leans_on = dict(leans_on or {})

    def plan(self, context: Context) -> BatchPlan:
        """Every transition once an epoch, histories cut elsewhere each time, up to ``tokens`` in all.

        Raises:
            InputError: no user has two training events.
        """
        vocabulary, options = context.vocabulary, self.options
        frame = recommendation_frame(vocabulary.tokenizer)
        batches: list[list[Row]] = []
        for epoch in range(options.epochs):
            histories, soft = taught_histories(self.lessons, context, epoch)
            cut = spans(histories, self.max_history + 1, np.random.default_rng([context.seed, epoch]))
            examples = [recommendation_example(frame, vocabulary, histories.items[span], soft(span)) for span in cut]
            if not examples:
                raise InputError("no user has two training events: there is no transition to learn from")
            batches += into_batches(packed_rows(examples, len(frame), options.row_tokens), options.tokens_per_batch)
        return BatchPlan(up_to(batches, options.tokens), vocabulary.tokenizer.pad_token_id)

    def learning(self, model: Any) -> AbstractContextManager:
        """Let everything learn but the rows of words, or adapters in its place; dropout in the layers."""
        return layers_learning(model, self.options)

    def run(self, context: Context) -> Outcome:
        """Fine-tune on every transition of the training histories; keep the weights validation liked best."""
        users = self.options.valid_users
        with self.learning(context.model):
            return train(self.name, context, self.options, self.plan(context), lambda: context.validate(users, False))
