"""Options of the stages that learn by rewards: what all are told, and what each adds."""

from dataclasses import dataclass
from typing import ClassVar

from recbole_think.options import check
from recbole_think.stages.options import StageOptions

SCALES = ("group", "batch", "none")
ENGINES = ("", "server", "colocated")
HOTTEST = 2.0  # temperature vLLM takes


@dataclass(frozen=True)
class ReinforcementOptions(StageOptions):
    """What every stage that learns by rewards is told."""

    compared: ClassVar[str] = ""  # name of the option that says how many completions a group has

    steps: int = 30
    prompts: int = 64  # of a step
    fresh: bool = True  # prompts are every user's last training event, which no stage before is taught
    iterations: int = 1  # updates by the same completions
    kl: float = 0.01  # weight of the divergence from the policy it began as
    clip: float = 0.2
    scale: str = "batch"  # rewards by the spread of their: group, batch, none
    passes: int = 1  # forward and backward passes of a step: more need less memory
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    lora_rank: int = 0  # 0 = full parameters
    warmup: float = 0.1
    validations: int = 3
    valid_users: int = 400  # lists of so many choose the checkpoint
    most_kl: float = 1.0  # nats a token; beyond it training stops
    least_reward: float = 0.5  # training stops where the mean reward has lost more than 1 - this of its first size

    @property
    def group(self) -> int:
        """Completions of a prompt: they are compared with one another."""
        return int(getattr(self, self.compared))

    def require_shares(self, processes: int) -> None:
        """Refuse prompts that several processes cannot share evenly, in whole groups and whole passes.

        Raises:
            InputError: they cannot.
        """
        check(
            self.prompts % processes == 0 and self.prompts * self.group % (self.passes * processes) == 0,
            f"{self.block}.prompts={self.prompts} of {self.group} completions in {self.passes} passes cannot be shared "
            f"by {processes} processes: launch another number of them, or make {self.block}.prompts a multiple of "
            f"{processes} that also divides into passes",
        )

    def __post_init__(self):
        super().__post_init__()
        for name in ("steps", "prompts", "iterations", "passes"):
            self._check(getattr(self, name) >= 1, name, "must be at least 1")
        self._check(self.group >= 2, self.compared, "must be at least 2: a group of one has nothing to compare")
        many = self.prompts * self.group
        self._check(many % self.passes == 0, "passes", f"must divide prompts x {self.compared} = {many}")
        self._check(isinstance(self.fresh, bool), "fresh", "must be true or false")
        self._check(self.scale in SCALES, "scale", "must be group, batch or none")
        for name in ("kl", "valid_users", "least_reward", "learning_rate", "weight_decay", "lora_rank"):
            self._check(getattr(self, name) >= 0, name, "must not be negative")
        for name in ("clip", "most_kl"):
            self._check(getattr(self, name) > 0, name, "must be positive")


@dataclass(frozen=True)
class EnhancementOptions(ReinforcementOptions):
    """Reasoning enhancement: GRPO with rollout-beam rewards (YAML block ``enhancement:``)."""

    block: ClassVar[str] = "enhancement"
    compared: ClassVar[str] = "rationales"
    later: ClassVar[tuple[str, ...]] = ("vllm", "vllm_server")

    rationales: int = 8  # of a prompt: a group
    beams: int = 16  # of a rationale
    temperature: float = 1.0
    held_out: int = 500  # further validation users, whose reward is measured before and after; 0 = not measured
    held_out_rationales: int = 4  # thoughts of each
    vllm: str = ""  # where vLLM draws the rationales, through TRL: server, colocated; empty = they are drawn by us
    vllm_server: str = ""  # such as http://127.0.0.1:8000

    def __post_init__(self):
        super().__post_init__()
        cool = not self.vllm or self.temperature <= HOTTEST
        self._check(cool, "temperature", f"must be at most {HOTTEST:g} where vLLM draws")
        self._check(self.vllm in ENGINES, "vllm", 'must be "" (rationales are drawn by us), server or colocated')
        named = self.vllm_server.startswith(("http://", "https://")) if self.vllm == "server" else not self.vllm_server
        self._check(named, "vllm_server", "is a URL such as http://127.0.0.1:8000 with vllm=server, and empty without")
        for name in ("beams", "held_out_rationales"):
            self._check(getattr(self, name) >= 1, name, "must be at least 1")
        self._check(self.held_out >= 0, "held_out", "must not be negative")
        self._check(self.temperature > 0, "temperature", "must be positive")


@dataclass(frozen=True)
class ItemEnhancementOptions(ReinforcementOptions):
    """Item enhancement: GRPO over lists of items, no thought before them (YAML block ``item_enhancement:``)."""

    block: ClassVar[str] = "item_enhancement"
    compared: ClassVar[str] = "beams"

    beams: int = 16  # items of a prompt: a group
    hit: float = 1.0  # weight of the reward of the target
    rank: float = 1.0  # weight of the punishment of what stands in a list with the target
    scale: str = "group"
    valid_users: int = 0  # 0 = all
    least_reward: float = 0.0  # 0 = never: a few hits more or less make the mean jump

    def __post_init__(self):
        super().__post_init__()
        for name in ("hit", "rank"):
            self._check(getattr(self, name) >= 0, name, "is the weight of a reward and must not be negative")
        self._check(self.hit + self.rank > 0, "hit", "and item_enhancement.rank are both 0: nothing is rewarded")
