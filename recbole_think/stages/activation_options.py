"""Options of reasoning activation, and of the server that may explain for it."""

from dataclasses import dataclass
from typing import ClassVar

from recbole_think.decoding.options import DecodeOptions
from recbole_think.options import check
from recbole_think.prompts.options import NAMED
from recbole_think.stages.options import WeightOptions

SOURCES = ("category", "self", "teacher")
UNLED = ("direct", "resample", "keep")


@dataclass(frozen=True)
class ActivationOptions(WeightOptions):
    """Reasoning activation: rationale, then item, after raw histories (YAML block ``activation:``)."""

    block: ClassVar[str] = "activation"

    source: str = "category"  # who explains: category (the data), self (the aligned model), teacher (a server)
    target_category: float = 0.0  # category: share that ends with the target's own (the official code: all)
    evidence: int = 10  # k: items of the history nearest to the target
    cited: int = 0  # category: items named
    kinds: int = 2  # category: how much they have in common is named
    named: str = (
        "kinds"  # as: kinds (parts of categories), paths (whole ones, without what all share), codes (the first)
    )
    words: str = "auto"  # a thought is made of: taught (what rationales say), all, auto = taught for category
    shortest: int = 2  # tokens of a rationale
    longest: int = 32
    per_window: int = 20  # places of a window of a history that are explained
    instructed: float = 0.1  # share of the windows that come with a wish: only one kind of item, or few words
    direct: bool = True  # histories go on being learnt as they are answered without thinking
    rounds: int = 1
    epochs: int = 1  # of every round
    unled: str = (
        "direct"  # from round 2, where thoughts do not lead to the target: direct (an empty thought), resample, keep
    )
    hits: bool = True  # from round 2, where they do: the thought that did takes the place of the rationale
    judged_thoughts: int = 2  # thoughts that judge this
    judged_beams: int = 5
    rationales: str = ""  # file the answers of self and teacher are kept in; empty = in the cache
    row_tokens: int = 256
    learning_rate: float = 5e-4
    row_learning_rate: float = 1e-3
    dropout: float = 0.2
    hidden_dropout: float = 0.2
    attention_dropout: float = 0.2
    validations: int = 1  # of every round
    valid_users: int = 0
    tokens: int = 0  # at most this many are read in every round; 0 = all

    def __post_init__(self):
        super().__post_init__()
        self._check(self.source in SOURCES, "source", f"must be one of {SOURCES}")
        self._check(self.named in NAMED, "named", f"must be one of {NAMED}")
        self._check(self.unled in UNLED, "unled", f"must be one of {UNLED}")
        self._check(self.words in ("auto", "taught", "all"), "words", "must be auto, taught or all")
        self._check(
            not (self.words == "taught" and self.source != "category"), "words",
            f"can be taught with source category alone, since {self.source} may say anything; set all",
        )  # fmt: skip
        for name in ("direct", "hits"):
            self._check(isinstance(getattr(self, name), bool), name, "must be true or false")
        for name in ("evidence", "shortest", "per_window", "rounds", "epochs", "judged_thoughts", "judged_beams"):
            self._check(getattr(self, name) >= 1, name, "must be at least 1")
        for name in ("cited", "kinds", "valid_users", "tokens"):
            self._check(getattr(self, name) >= 0, name, "must not be negative")
        for name in ("hidden_dropout", "attention_dropout"):
            self._check(0 <= getattr(self, name) < 1, name, "must lie in [0, 1)")
        self._check(0 <= self.instructed < 1, "instructed", "must lie in [0, 1)")
        self._check(0 <= self.target_category <= 1, "target_category", "must lie in [0, 1]")
        says = self.cited or self.kinds or self.target_category == 1
        self._check(bool(says), "kinds", "and cited are both 0: a rationale would say nothing")
        self._check(self.longest >= self.shortest, "longest", f"is below activation.shortest={self.shortest}")

    @property
    def judging(self) -> DecodeOptions:
        """How the model thinks about what it is taught."""
        thoughts, beams = self.judged_thoughts, self.judged_beams
        return DecodeOptions(thoughts=thoughts, thought_tokens=self.longest, thought_beams=beams)

    @property
    def taught_words(self) -> bool:
        """Whether a thought says only what rationales may say."""
        return self.words == "taught" or (self.words == "auto" and self.source == "category")


@dataclass(frozen=True)
class TeacherOptions:
    """An OpenAI-compatible server that explains (YAML block ``teacher:``)."""

    url: str = ""  # such as http://127.0.0.1:8000/v1
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the key; a local server needs none
    temperature: float = 0.7
    max_tokens: int = 96
    timeout_s: float = 60.0
    retries: int = 3  # of one request, waiting longer each time
    workers: int = 4  # requests at once
    give_up: int = 20  # after so many requests in a row that failed

    def __post_init__(self):
        for name in ("max_tokens", "workers", "give_up"):
            check(getattr(self, name) >= 1, f"teacher.{name} must be at least 1, got {getattr(self, name)}")
        check(self.retries >= 0, f"teacher.retries must not be negative, got {self.retries}")
        check(self.timeout_s > 0, f"teacher.timeout_s must be positive, got {self.timeout_s}")
        check(self.temperature >= 0, f"teacher.temperature must not be negative, got {self.temperature}")
