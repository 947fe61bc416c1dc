"""Reasoning activation (OneRec-Think, "Reasoning Activation"): rationale, then item, after raw histories.

Cases are places of training histories; the source explains each from its pruned context, and what may be learnt from
passes the filter. Learning is from the full history: thought and item, every token of both counts the same. From the
second round on the model judges what it has: where two thoughts of five beams each reach the target, the thought that
did takes the rationale's place (rejection fine-tuning on hits); where none does, the place is answered after an empty
thought, as in the official code, or explained by another case. Where we depart: thoughts branch off a window of a
history, many a window, and the window itself goes on being learnt as it is answered without thinking, so that the twin
without thinking is the same model and not one that has forgotten how.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_think.artifacts import load_tensors, read_json, save_tensors, write_json
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.processes import made_once
from recbole_think.prompts.batching import packed_rows
from recbole_think.prompts.filters import REASONS
from recbole_think.prompts.tasks import (
    Branch,
    Example,
    recommendation_frame,
    recommendation_prompt,
)
from recbole_think.prompts.thinking import instructed_frame, thought_branch, thoughtful
from recbole_think.stages.activation_options import ActivationOptions
from recbole_think.stages.batches import BatchPlan, into_batches, up_to
from recbole_think.stages.cases import Cases, Means, Taught
from recbole_think.stages.stage import BEST, CHECKPOINTS, Context, Outcome, load_weights, trainable
from recbole_think.stages.training import layers_learning, train

log = logging.getLogger(__name__)
DONE = "done.json"
MERGED = "merged.safetensors"  # weights of a round that was taught through adapters, without them


class Activation:
    """The stage."""

    name = "activation"

    def __init__(self, options: ActivationOptions, max_history: int, means: Means):
        """Take what the stage leans on.

        Args:
            options: of the stage.
            max_history: latest items a prompt shows.
            means: who explains, who judges, and how the model thinks.
        """
        self.options, self.max_history, self.means = options, max_history, means
        self.filter, self.leans_on = means.filter, dict(means.leans_on)
        self.cases = Cases(options, max_history, means)

    def learning(self, model: Any) -> AbstractContextManager:
        """Let everything learn but the rows of words, or adapters in its place; dropout in the layers."""
        return layers_learning(model, self.options)

    def plan(self, context: Context) -> BatchPlan:
        """Batches of the first round."""
        return self._plan(context, *self.cases.explained(context))

    def run(self, context: Context) -> Outcome:
        """Teach in rounds; keep the weights of the round, and in it the step, that validation liked best."""
        examples, taught = self.cases.explained(context)
        outcomes = [self._round(context, number, examples, taught) for number in range(self.options.rounds)]
        best = max(range(len(outcomes)), key=lambda number: outcomes[number].best_score)
        load_weights(context.model, load_tensors(self._kept(context, best)))
        curve: list[dict[str, float]] = []
        for number, outcome in enumerate(outcomes):
            begin = sum(earlier.steps for earlier in outcomes[:number])
            curve += [{**row, "step": row["step"] + begin} for row in outcome.curve]
        tokens, steps = (sum(getattr(outcome, name) for outcome in outcomes) for name in ("tokens", "steps"))
        return Outcome(
            outcomes[best].loss, tokens, steps, outcomes[best].best_score, curve, self._figures(taught, outcomes, best)
        )

    def _round(self, context: Context, number: int, examples: list[Example], taught: list[Taught]) -> Outcome:
        """One round; a finished one is read back."""
        folder = _folder(context, number)
        if (folder / DONE).is_file():
            load_weights(context.model, load_tensors(self._kept(context, number)))
            return Outcome(**read_json(folder / DONE))
        learnt, judged = taught, Counter[str]()
        if number:
            context.model.eval()
            learnt = self._judged(context, taught, number, judged)
        plan = self._plan(context, examples, learnt)
        users = self.options.valid_users
        with self.learning(context.model):
            outcome = train(
                f"{self.name}/{CHECKPOINTS}/{folder.name}", context, self.options, plan,
                lambda: context.validate(users, True), self.means.words,
            )  # fmt: skip
        if self.options.lora_rank:
            save_tensors(folder / MERGED, trainable(context.model))
        leaking = sum(self.filter.leaks(self.cases.pieces(one.thought), one.case) for one in learnt if one.thought)
        outcome.figures = {**judged, "learnt": sum(bool(one.thought) for one in learnt), "leaking": leaking,
                           "empty_thoughts": sum(one.thought == [] for one in learnt)}  # fmt: skip
        write_json(folder / DONE, outcome.__dict__)
        return outcome

    def _kept(self, context: Context, number: int) -> Path:
        """Weights a round ended with, as a model without adapters takes them."""
        return _folder(context, number) / (MERGED if self.options.lora_rank else BEST)

    def _judged(self, context: Context, taught: list[Taught], number: int, counts: Counter[str]) -> list[Taught]:
        """Let the model think about every explained case, and decide by where its thoughts lead."""
        options = self.options
        frame = recommendation_frame(context.vocabulary.tokenizer)
        wished = [one for one in taught if one.instruction]
        asked = [one for one in taught if one.thought is not None and not one.instruction]
        prompts = [recommendation_prompt(frame, context.vocabulary, np.array(one.case.history)) for one in asked]
        thoughts = made_once(lambda: self.means.think(prompts, options.judging))
        learnt, missed = [], []
        for one, of_case in zip(asked, thoughts, strict=True):
            hit = next((thought for thought in of_case if one.case.target in thought.items), None)
            counts["judged"] += 1
            counts["led_to_target"] += hit is not None
            if hit is None:
                missed.append(one)
                continue
            own = options.hits and hit.closed and self.filter.reason(self.cases.pieces(hit.ids), one.case) is None
            counts["own_thoughts"] += own
            learnt.append(replace(one, thought=hit.ids) if own else one)
        if options.unled == "keep":
            return wished + learnt + missed
        if options.unled == "direct" or not learnt:
            return wished + learnt + [replace(one, thought=[]) for one in missed]
        dice = np.random.default_rng([context.seed, 6500, number])
        return wished + learnt + [learnt[place] for place in dice.integers(len(learnt), size=len(missed)).tolist()]

    def _plan(self, context: Context, examples: list[Example], taught: Sequence[Taught]) -> BatchPlan:
        vocabulary, options = context.vocabulary, self.options
        shared = len(recommendation_frame(vocabulary.tokenizer))
        levels = vocabulary.item_tokens.shape[1]
        branches: list[list[Branch]] = [[] for _ in examples]
        wished: list[Example] = []
        for one in taught:
            if one.thought is not None and one.instruction:
                wished.append(self._wish(vocabulary, one))
            elif one.thought is not None:
                at = shared + levels * one.place
                branches[one.window].append(thought_branch(vocabulary, at, one.thought, one.case.target, one.soft))
        whole = [
            thoughtful(example, of_example, options.direct)
            for example, of_example in zip(examples, branches, strict=True)
            if options.direct or of_example
        ]
        rows = packed_rows(whole, shared, options.row_tokens) + packed_rows(wished, 0, options.row_tokens)
        order = np.random.default_rng(6200).permutation(len(rows)).tolist()
        batches = into_batches([rows[place] for place in order], options.tokens_per_batch)
        return BatchPlan(up_to(batches, options.tokens), vocabulary.tokenizer.pad_token_id)

    def _wish(self, vocabulary: Vocabulary, one: Taught) -> Example:
        """A history in a chat that holds the wish; nothing but the thought and the answer is learnt of it."""
        frame = instructed_frame(vocabulary, one.instruction)
        ids = recommendation_prompt(frame, vocabulary, np.array(one.case.history))
        thought = one.thought or []
        branch = thought_branch(vocabulary, len(ids), thought, one.case.target, one.soft)
        return Example(ids, np.zeros(len(ids), dtype=bool), branches=(branch,))

    def _figures(self, taught: Sequence[Taught], outcomes: Sequence[Outcome], best: int) -> dict[str, Any]:
        """What became of the cases.

        Shares rejected by reason, what leaks of what is learnt, what the source took, what each round judged.
        """
        rounds = [outcome.figures for outcome in outcomes]
        lengths = [len(one.thought) for one in taught if one.thought]
        return {
            "cases": len(taught),
            "rejected": {name: round(self.cases.counts[name] / len(taught), 4) for name in REASONS},
            "accepted": round(self.cases.counts["accepted"] / len(taught), 4),
            "instructed": self.cases.counts["instructed"],
            "training_leakage_rate": sum(row["leaking"] for row in rounds)
            / max(1, sum(row["learnt"] for row in rounds)),
            "source": {"name": self.options.source, **self.cases.costs},
            "rationale_tokens": round(float(np.mean(lengths)), 2),
            "rounds": rounds,
            "kept_round": best + 1,
        }


def _folder(context: Context, number: int) -> Path:
    return context.folder / Activation.name / CHECKPOINTS / f"round-{number + 1}"
