"""Item enhancement: GRPO over items without a thought (MiniOneRec's recommendation-oriented reinforcement learning).

For each prompt the policy's own constrained search gives a list of distinct items, which are compared with one another:
the target is rewarded, and what stands in a list with it is punished the more the higher it stands
(``item_rewards.py``). A code competes with the codes of its level, as in the recommendation stage and in the search.
Where we depart: rows of codes stay as they are; the reference is the policy as it began (theirs follows); only
histories are asked about, not titles; the last training events may be withheld for this stage (``fresh``).
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from recbole_think.corpus.histories import Histories
from recbole_think.decoding.trie import SidTrie
from recbole_think.prompts.tasks import recommendation_frame, recommendation_prompt
from recbole_think.stages.dialect import Dialect, dialect_of
from recbole_think.stages.grpo import Task, reinforced, sized_up
from recbole_think.stages.item_rewards import REWARDS, found
from recbole_think.stages.item_rollout import ItemRollout
from recbole_think.stages.policy import Place, drawn_places, layers_alone
from recbole_think.stages.precision import choose
from recbole_think.stages.reinforcement import ItemEnhancementOptions
from recbole_think.stages.rollout import Asked
from recbole_think.stages.scored import scored_codes
from recbole_think.stages.stage import Context, Outcome


class ItemEnhancement:
    """The stage."""

    name = "item_enhancement"

    def __init__(
        self, options: ItemEnhancementOptions, trie: SidTrie, max_history: int, mask_history: bool,
        fresh: Histories | None = None,
    ):  # fmt: skip
        """Take what the stage leans on.

        Args:
            options: of the stage.
            trie: the catalogue.
            max_history: latest items a prompt shows.
            mask_history: no list names what a history holds.
            fresh: whole histories, whose last events no stage before was taught: those are the prompts. None = any
                place of the histories all stages read.
        """
        self.options, self.trie, self.fresh = options, trie, fresh
        self.max_history, self.mask_history = max_history, mask_history
        self.leans_on = {"mask_history": mask_history}

    def learning(self, model: Any) -> AbstractContextManager:
        """Let the layers learn, or adapters in their place; no rows of words or codes."""
        return layers_alone(model, self.options.lora_rank)

    def plan(self, context: Context) -> list[Place]:
        """Every prompt of every step: history shown, target, and all that was met before. Drawn by seed.

        Raises:
            InputError: no user has enough training events.
        """
        wanted, histories = self.options.steps * self.options.prompts, self.fresh or context.histories
        return drawn_places(histories, self.fresh is not None, wanted, self.max_history, context.seed)

    def probe(self, context: Context) -> dict[str, Any]:
        """Make two steps and size up the stage by the second: tokens, steps, seconds; the weights are not put back."""
        few = replace(self.options, steps=2, iterations=1, validations=1, valid_users=1, checkpoints=0)
        stage = ItemEnhancement(few, self.trie, self.max_history, self.mask_history, self.fresh)
        with stage.learning(context.model):
            return sized_up(stage._trained(context), self.options)

    def run(self, context: Context) -> Outcome:
        """Let the items of a list compete; keep the weights validation liked best."""
        with self.learning(context.model):
            outcome = self._trained(context)
        context.model.eval()
        return outcome

    def _trained(self, context: Context) -> Outcome:
        options, vocabulary = self.options, context.vocabulary
        frame, places = recommendation_frame(vocabulary.tokenizer), self.plan(context)
        prompts = [recommendation_prompt(frame, vocabulary, shown) for shown, _, _ in places]
        dialect = dialect_of(*prompts, *(tokens.numpy() for tokens in vocabulary.code_tokens), vocabulary.marks)
        code_tokens = [torch.from_numpy(dialect.ids(tokens.numpy())) for tokens in vocabulary.code_tokens]
        asked = [
            Asked(dialect.ids(ids), target, before if self.mask_history else before[:0])
            for ids, (_, target, before) in zip(prompts, places, strict=True)
        ]
        task = Task(
            self.name, options, dialect, self._rollout(context, dialect, code_tokens, asked), REWARDS,
            {name: weight for name in REWARDS if (weight := float(getattr(options, name)))}, found, thinks=False,
            scored=partial(scored_codes, code_tokens=code_tokens),
        )  # fmt: skip
        outcome = reinforced(task, context)
        for row in outcome.curve:
            row.pop("rationale_tokens", None)  # there are none
        return outcome

    def _rollout(
        self, context: Context, dialect: Dialect, code_tokens: list[torch.Tensor], asked: list[Asked]
    ) -> ItemRollout:
        config = context.model.config
        dtype = choose(self.options.precision, context.folder, config.hidden_size, config.intermediate_size)
        return ItemRollout(self.trie, dialect, code_tokens, asked, self.options.beams, dtype)
