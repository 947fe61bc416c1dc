"""One batch of reasoning enhancement: by our stage, and by TRL's own trainer with a reward made the usual way.

Both sides train the same plain model of the same dialect on the same prompts, with a learning rate of 0, so that every
repeat is the same work. TRL's own side draws rationales with Hugging Face's generate and asks generate once more for
every rationale, with beams that follow the trie (``prefix_allowed_tokens_fn``). B prompts, G rationales, K beams.
"""

import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from bench import agreement
from datasets import Dataset
from floor import ADAM_BYTES, bandwidth, beam_steps, roofline_seconds, sampling_steps, update_steps
from transformers import TrainerCallback
from trl import GRPOTrainer
from world import generated_tokens, legal_tokens

from recbole_think.corpus.histories import from_pairs
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.sampling import SampleOptions
from recbole_think.decoding.trie import SidTrie
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.tasks import recommendation_frame, recommendation_prompt
from recbole_think.prompts.thinking import thought_prompt
from recbole_think.stages.dialect import Dialect, dialect_of, spoken_model
from recbole_think.stages.enhancement import Enhancement, Thinking
from recbole_think.stages.grpo import arguments
from recbole_think.stages.progress import use_bar
from recbole_think.stages.reinforcement import EnhancementOptions
from recbole_think.stages.rewards import RewardOptions
from recbole_think.stages.rollout import Asked, Rollout
from recbole_think.stages.stage import Context

PARTS = ("rollout", "reward", "update", "whole")
NORMALIZE = "vocab"  # over all the policy can say, as generate does
COMPARED = 4  # rationales whose beams are asked of both sides
Seconds = dict[str, float]  # of each part
Prompt = tuple[np.ndarray, int, np.ndarray]  # items shown, target, items met before


@dataclass(frozen=True)
class Problem:
    """What both sides are given."""

    model: Any  # taught backbone whose thoughts never end by themselves
    vocabulary: Vocabulary
    codes: Codes
    words: np.ndarray  # tokens a rationale is made of
    longest: int  # tokens of a rationale
    options: EnhancementOptions
    prompts: list[Prompt]  # B

    @property
    def thinking(self) -> Thinking:
        """What the stage is told about thinking; nothing is masked."""
        trie, shown = SidTrie(torch.from_numpy(self.codes.table)), max(len(shown) for shown, _, _ in self.prompts)
        return Thinking(self.codes, trie, self.words, self.longest, NORMALIZE, shown, mask_history=False)

    @property
    def ids(self) -> list[np.ndarray]:
        """Token ids of every prompt, up to the first word of the rationale."""
        frame = recommendation_frame(self.vocabulary.tokenizer)
        return [
            thought_prompt(recommendation_prompt(frame, self.vocabulary, shown), self.vocabulary)
            for shown, _, _ in self.prompts
        ]

    @property
    def dialect(self) -> Dialect:
        """Tokens both policies know, those the stage would find."""
        return dialect_of(*self.ids, self.words, torch.cat(self.vocabulary.code_tokens).numpy())

    def context(self, folder: Path) -> Context:
        """A run that does nothing but this."""
        histories = from_pairs(np.ones(2, dtype=np.int64), np.array([1, 2]), 2)
        return Context(
            folder=folder, model=self.model, vocabulary=self.vocabulary, histories=histories,
            validate=lambda users, think: 0.0, seed=0, facts={}, scalar=lambda *_: None, show_progress=False,
        )  # fmt: skip


def drawn_prompts(vocabulary: Vocabulary, codes: Codes, prompts: int, tokens: int) -> list[Prompt]:
    """Histories of random items whose prompts are a fifth shorter to a fifth longer than ``tokens``."""
    dice = np.random.default_rng(2)
    items, levels = codes.table.shape
    frame = len(recommendation_frame(vocabulary.tokenizer)) + 1
    lengths = dice.uniform(0.8 * tokens, 1.2 * tokens, prompts)
    shown = [dice.integers(1, items + 1, max(1, round((length - frame) / levels))) for length in lengths]
    return [(history, int(dice.integers(1, items + 1)), history) for history in shown]


class Planned(Enhancement):
    """The stage with the same prompts at every step."""

    prompts: list[Prompt]

    def plan(self, context: Context) -> list[Prompt]:
        """See ``Enhancement``."""
        return self.prompts * self.options.steps


class OurSide:
    """Runs our stage, two steps at a time: the first sets up."""

    def __init__(self, problem: Problem, folder: Path):
        self.problem, self.folder, self.runs = problem, folder, itertools.count()
        self.found: list[Seconds] = []
        self.tokens: list[float] = []  # of a rationale, of every run

    def __call__(self) -> list[Seconds]:
        """Run once more; give the seconds of the second step of every run so far."""
        begun: list[float] = []
        ended: list[float] = []

        def told(name: str, *_: float) -> None:
            if name.endswith("/loss"):  # the loss of a step is told when all of it is over
                begun.append(time.perf_counter())

        def validate(*_: Any) -> float:  # before the first step and after the last
            ended.append(time.perf_counter())
            return 0.0

        context = replace(self.problem.context(self.folder / f"ours-{next(self.runs)}"), scalar=told, validate=validate)
        context.folder.mkdir()
        stage = Planned(
            replace(self.problem.options, steps=2),
            RewardOptions(),
            self.problem.thinking,
            lambda *_: lambda _: {},
        )
        stage.prompts = self.problem.prompts
        curve = [row for row in stage.run(context).curve if row["step"] == 2 and "rollout_seconds" in row]
        rollout, reward = curve[0]["rollout_seconds"], curve[0]["reward_seconds"]
        whole = ended[-1] - begun[0]
        self.found.append({"rollout": rollout, "reward": reward, "update": whole - rollout - reward, "whole": whole})
        self.tokens.append(curve[0]["rationale_tokens"])
        return self.found


class StockTrainer(GRPOTrainer):
    """TRL's trainer, which notes how long its own generate takes."""

    spent = 0.0

    def _generate_single_turn(self, *given: Any, **more: Any) -> Any:
        begin = time.perf_counter()
        found = super()._generate_single_turn(*given, **more)
        self.spent += time.perf_counter() - begin
        return found


class Clock(TrainerCallback):
    """Seconds of the last step."""

    seconds = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        """Begin."""
        self.begin = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """End."""
        self.seconds = time.perf_counter() - self.begin


class StockSide:
    """Runs TRL's trainer as it comes, a step at a time."""

    def __init__(self, problem: Problem, folder: Path):
        self.problem, self.dialect, self.clock = problem, problem.dialect, Clock()
        self.peer = Peer(problem)
        self.judging = 0.0
        self.found: list[Seconds] = []
        self.tokens: list[float] = []
        with learning(problem):
            self.trainer = self._trainer(folder / "stock")

    def __call__(self) -> list[Seconds]:
        """Make one more step; give the seconds of all so far."""
        self.trainer.spent = self.judging = 0.0
        self.trainer.train()
        rollout, whole = self.trainer.spent, self.clock.seconds
        update = whole - rollout - self.judging
        self.found.append({"rollout": rollout, "reward": self.judging, "update": update, "whole": whole})
        told = [row["completions/mean_length"] for row in self.trainer.state.log_history if "reward" in row]
        self.tokens.append(told[-1])
        return self.found

    def _trainer(self, folder: Path) -> StockTrainer:
        problem, policy = self.problem, self.peer.policy
        tokenizer = self.dialect.tokenizer(problem.vocabulary)
        policy.save_pretrained(folder / "reference")
        policy.config._name_or_path = str(folder / "reference")
        policy.generation_config.eos_token_id = tokenizer.eos_token_id
        policy.generation_config.pad_token_id = tokenizer.pad_token_id
        options = replace(problem.options, steps=1)
        settings = arguments(options, options.temperature, problem.context(folder).seed, folder, [1.0], {})
        settings.max_completion_length = problem.longest
        texts = [" ".join(tokenizer.convert_ids_to_tokens(ids.tolist())) for ids in self.peer.asked]
        data = Dataset.from_dict({"prompt": texts, "number": list(range(len(texts)))})
        trainer = StockTrainer(
            model=policy, reward_funcs=[self._reward], args=settings, train_dataset=data,
            processing_class=tokenizer, callbacks=[self.clock],
        )  # fmt: skip
        use_bar(trainer, "stock", shown=False)
        return trainer

    def _reward(self, completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float | None]:
        """The rollout-beam reward, one call of generate for each rationale."""
        begin, table = time.perf_counter(), self.problem.codes.table
        found: list[float | None] = []
        for said, row in zip(completion_ids, number, strict=True):
            led = table[self.peer.beams(row, [*said, *[self.peer.stop][: said[-1] != self.peer.stop]])]
            found.append(float((led == table[self.problem.prompts[row][1] - 1]).sum(1).max()))
        self.judging += time.perf_counter() - begin
        return found


class Peer:
    """A policy whose beams are made by generate."""

    def __init__(self, problem: Problem):
        dialect, self.count = problem.dialect, problem.options.beams
        self.policy = spoken_model(problem.model, dialect)
        self.asked = [dialect.ids(ids) for ids in problem.ids]
        self.stop = int(dialect.ids(problem.vocabulary.marks[1]))
        tokens = dialect.ids(problem.vocabulary.item_tokens)
        self.legal, self.levels = legal_tokens(tokens), tokens.shape[1]
        self.item_of = {tuple(row): item for item, row in enumerate(tokens.tolist())}

    def beams(self, number: int, said: list[int]) -> list[int]:
        """Rows of the catalogue, best first, after a prompt and a closed rationale."""
        ids = torch.from_numpy(np.append(self.asked[number], said)).unsqueeze(0)
        [found] = generated_tokens(self.policy, ids, torch.ones_like(ids), self.legal, self.count, self.levels).tolist()
        return [self.item_of[tuple(row)] for row in found]


@contextmanager
def learning(problem: Problem) -> Iterator[None]:
    """What learns is what learns in the stage."""
    stage = Planned(problem.options, RewardOptions(), problem.thinking, lambda *_: lambda _: {})
    with stage.learning(problem.model):
        yield


@contextmanager
def both_sides(problem: Problem) -> Iterator[tuple[OurSide, StockSide]]:
    """Ours and TRL's own, in a folder that lasts as long as they do."""
    with tempfile.TemporaryDirectory() as folder:
        yield OurSide(problem, Path(folder)), StockSide(problem, Path(folder))


def same_beams(problem: Problem) -> dict[str, Any]:
    """Whether beams after a few of our rationales name what generate names after the very same."""
    dtype, options, dialect = getattr(torch, problem.options.precision), problem.options, problem.dialect
    peer, thinking = Peer(problem), problem.thinking
    asked = [
        Asked(ids, target, before[:0]) for ids, (_, target, before) in zip(peer.asked, problem.prompts, strict=True)
    ]
    rollout = Rollout(
        problem.vocabulary, problem.codes, thinking.trie, dialect, problem.words, asked,
        SampleOptions(options.rationales, problem.longest + 1, options.temperature), options.beams, NORMALIZE, 0, dtype,
    )  # fmt: skip
    begun = SimpleNamespace(state=SimpleNamespace(global_step=0))
    found = rollout.follow(peer.policy, range(min(COMPARED, len(asked))), begun)
    some = range(0, len(found["led"]), options.rationales)  # the first of each prompt
    ours = [(found["led"][place].items - 1).tolist() for place in some]
    peer.policy = lowered(peer.policy, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        theirs = [peer.beams(number, found["completion_ids"][place]) for number, place in enumerate(some)]
    return {"compared": len(ours), **agreement(ours, theirs)}


def roofline(problem: Problem) -> Seconds:
    """Least seconds of each part of a batch, and of an update that reads a prompt anew for every rationale."""
    config, options, words = problem.model.config, problem.options, problem.dialect.pad + 1
    prompts, group = [len(ids) for ids in problem.ids], options.rationales
    said, rows, mean = problem.longest + 1, len(prompts) * group, round(sum(map(len, problem.ids)) / len(prompts))
    heads = [words] * problem.codes.table.shape[1]
    dtype = getattr(torch, options.precision)
    learns = sum(value.numel() for layer in problem.model.get_decoder().layers for value in layer.parameters())
    adam = ADAM_BYTES * learns / bandwidth()
    steps = {
        "rollout": sampling_steps(config, prompts, group, said, len(problem.words)),
        "reward": beam_steps(config, rows, options.beams, mean + said, heads),
        "update": update_steps(config, prompts, group, said, words),
    }
    found = {part: roofline_seconds(of_part, dtype) for part, of_part in steps.items()}
    found["update"] += adam
    anew = update_steps(config, [length for length in prompts for _ in range(group)], 1, said, words)
    return {**found, "whole": sum(found.values()), "update_anew": roofline_seconds(anew, dtype) + adam}
