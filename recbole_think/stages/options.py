"""Options of the stages: what every training has, and what each stage adds."""

from dataclasses import dataclass
from typing import ClassVar

from recbole_think.options import check
from recbole_think.prompts.options import TASKS

SOURCES = ("category", "self", "teacher")
UNLED = ("direct", "resample", "keep")
PRECISIONS = ("auto", "float32", "bfloat16")
COMPILE = ("auto", "always", "never")


@dataclass(frozen=True)
class StageOptions:
    """What every stage is told."""

    block: ClassVar[str] = ""  # name of the YAML block, for errors
    # named among facts only where not 0, so that what was finished before there were any still matches
    later: ClassVar[tuple[str, ...]] = ()

    warmup: float = 0.05  # share of the steps
    max_grad_norm: float = 1.0
    validations: int = 3  # evenly spaced, the last after the last step; the best one's weights are kept
    checkpoints: int = 4  # evenly spaced points an interrupted run can go on from
    precision: str = "auto"  # auto = bfloat16 where measured faster
    gradient_checkpointing: bool = False  # layers are computed again in the backward pass: less memory, slower

    def __post_init__(self):
        self._check(self.max_grad_norm > 0, "max_grad_norm", "must be positive")
        self._check(self.checkpoints >= 0, "checkpoints", "must not be negative")
        self._check(self.validations >= 1, "validations", "must be at least 1")
        self._check(0 <= self.warmup < 1, "warmup", "is a share of the steps")
        self._check(self.precision in PRECISIONS, "precision", f"must be one of {PRECISIONS}")
        self._check(isinstance(self.gradient_checkpointing, bool), "gradient_checkpointing", "must be true or false")

    def _check(self, condition: bool, name: str, what: str) -> None:
        check(condition, f"{self.block}.{name} {what}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class TrainingOptions(StageOptions):
    """What the training of every supervised stage is told."""

    row_learning_rate: float = 3e-3  # of the itemic token rows
    tokens_per_batch: int = 2048  # tokens of one optimizer step
    row_tokens: int = 192  # examples are packed into rows of this many tokens
    dropout: float = 0.1  # on embedded tokens
    compile: str = "auto"  # decoder layers through torch.compile; auto = where the stage is long enough to earn it back

    def __post_init__(self):
        super().__post_init__()
        self._check(self.row_learning_rate >= 0, "row_learning_rate", "must not be negative")
        for name in ("tokens_per_batch", "row_tokens"):
            self._check(getattr(self, name) >= 1, name, "must be at least 1")
        self._check(0 <= self.dropout < 1, "dropout", "must lie in [0, 1)")
        self._check(self.compile in COMPILE, "compile", f"must be one of {COMPILE}")


@dataclass(frozen=True)
class WeightOptions(TrainingOptions):
    """What is told besides where the weights of the backbone learn too."""

    later: ClassVar[tuple[str, ...]] = ("four_bit",)

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    lora_rank: int = 0  # 0 = full parameters
    four_bit: bool = False  # layers that adapters stand beside are rounded to four bits while those learn

    def __post_init__(self):
        super().__post_init__()
        self._check(isinstance(self.four_bit, bool), "four_bit", "must be true or false")
        self._check(self.learning_rate > 0, "learning_rate", "must be positive")
        for name in ("weight_decay", "lora_rank"):
            self._check(getattr(self, name) >= 0, name, "must not be negative")


@dataclass(frozen=True)
class WarmupOptions(TrainingOptions):
    """Token warm-up: only the itemic rows learn, from persona texts (YAML block ``token_warmup:``)."""

    block: ClassVar[str] = "token_warmup"

    tokens: int = 40_000  # read in all
    dropout: float = 0.0
    validations: int = 2

    def __post_init__(self):
        super().__post_init__()
        self._check(self.tokens >= 1, "tokens", "must be at least 1")


@dataclass(frozen=True)
class MultiTaskOptions(WeightOptions):
    """Multi-task integration: tasks mixed by share of examples (YAML block ``multi_task:``)."""

    block: ClassVar[str] = "multi_task"
    later: ClassVar[tuple[str, ...]] = (*WeightOptions.later, "naming", "next_title")

    tokens: int = 150_000
    sequential: float = 0.6573
    persona: float = 0.2430
    captioning: float = 0.0494
    general: float = 0.0503
    naming: float = 0.0
    next_title: float = 0.0
    every_position: bool = True  # sequential: every item of a history is a target; False = the last alone
    train_words: bool = False  # the rows of words learn as well
    validations: int = 2

    def __post_init__(self):
        super().__post_init__()
        self._check(self.tokens >= 1, "tokens", "must be at least 1")
        for name in TASKS:
            self._check(getattr(self, name) >= 0, name, "is the share of a task and must not be negative")
        check(sum(self.shares.values()) > 0, f"multi_task: the shares of {', '.join(TASKS)} are all 0; raise one")

    @property
    def shares(self) -> dict[str, float]:
        """Weight of each task."""
        return {name: float(getattr(self, name)) for name in TASKS}


@dataclass(frozen=True)
class RecommendationOptions(WeightOptions):
    """Next-item supervised fine-tuning (YAML block ``recommendation:``)."""

    block: ClassVar[str] = "recommendation"

    dropout: float = 0.3
    hidden_dropout: float = 0.3  # on what each sublayer of a layer adds
    attention_dropout: float = 0.3  # on attention weights
    epochs: int = 14
    tokens: int = 0  # at most this many are read; 0 = all of the epochs
    valid_users: int = 0  # validate on a fixed sample of this many users; 0 = all

    def __post_init__(self):
        super().__post_init__()
        self._check(self.epochs >= 1, "epochs", "must be at least 1")
        for name in ("hidden_dropout", "attention_dropout"):
            self._check(0 <= getattr(self, name) < 1, name, "must lie in [0, 1)")
        self._check(self.tokens >= 0, "tokens", "must be 0 (no limit) or more")
        self._check(self.valid_users >= 0, "valid_users", "must be 0 (all) or more")


@dataclass(frozen=True)
class DistillationOptions:
    """Finished runs as teachers of recommendation and activation (YAML block ``distillation:``)."""

    teachers: tuple = ()  # run folders of models that score all items; () = none
    shares: tuple = ()  # of each teacher in what they say together; () = alike
    temperatures: tuple = ()  # each one's scores are divided by it before the softmax; () = all 1
    weight: float = 0.5  # of the soft labels; the true items have the rest
    items: int = 100  # that teachers name, with their probabilities
    repeats: bool = False  # they may name what a history holds
    beyond: int = 1  # items they also say come after the last event of a history, unless a stage keeps what does
    paths: int = 4  # ways a history may go on by more than one item

    def __post_init__(self):
        for name in ("shares", "temperatures"):
            given = getattr(self, name)
            self._check(not given or len(given) == len(self.teachers), name, "must be one number per teacher, or []")
            numbers = all(isinstance(value, int | float) and value > 0 for value in given)
            self._check(numbers, name, "must be positive numbers")
        self._check(0 <= self.weight <= 1, "weight", "must lie in [0, 1]")
        self._check(self.items >= 1, "items", "must be at least 1")
        self._check(isinstance(self.repeats, bool), "repeats", "must be true or false")
        self._check(isinstance(self.beyond, int) and self.beyond >= 0, "beyond", "must be a whole number, 0 = none")
        self._check(isinstance(self.paths, int) and self.paths >= 1, "paths", "must be at least 1")

    def _check(self, condition: bool, name: str, what: str) -> None:
        check(condition, f"distillation.{name} {what}, got {getattr(self, name)!r}")
