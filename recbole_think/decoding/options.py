"""Options of the decoding room."""

from dataclasses import dataclass

from recbole_think.decoding.engine import ENGINES, OURS
from recbole_think.decoding.likelihood import NORMALIZE
from recbole_think.decoding.sampling import SampleOptions
from recbole_think.decoding.thinking import MERGE
from recbole_think.options import check


@dataclass(frozen=True)
class DecodeOptions:
    """How one recommendation list is generated (YAML block ``decode:``)."""

    think: bool = True  # think before answering, where the model has learnt to (stage activation)
    thoughts: int = 5  # sampled thoughts a user
    thought_tokens: int = 32  # longest thought; one that has not ended by then is closed
    temperature: float = 1.0  # of thoughts; 0 = the most likely words, and one thought is all there is
    merge: str = "marginal"  # lists of several thoughts into one: marginal, max, vote
    thought_beams: int = 20  # after each thought, at least max(topk): any thought alone can fill a list
    num_beams: int = 50  # of an answer without thinking, at least max(topk)
    normalize: str = "level"  # softmax over: vocab, level (as trained), valid (legal children alone)
    tokens_per_batch: int = 16384  # padded prompt tokens decoded together
    precision: str = "float32"  # auto, float32, bfloat16; scores are float32 in any case
    engine: str = OURS  # who computes: transformers (this process), vllm (thoughts in process), openai (a server, all)

    @property
    def candidates(self) -> int:
        """Items that are looked at for one list."""
        return self.thoughts * self.thought_beams if self.think else self.num_beams

    @property
    def shortest_list(self) -> int:
        """Items a list holds at least, where the catalogue has as many."""
        return self.thought_beams if self.think else self.num_beams

    @property
    def sampling(self) -> SampleOptions:
        """How thoughts are drawn; the closing mark is a token of its own."""
        return SampleOptions(self.thoughts, self.thought_tokens + 1, self.temperature)

    def __post_init__(self):
        check(isinstance(self.think, bool), f"decode.think must be true or false, got {self.think!r}")
        for name in ("thoughts", "thought_tokens", "thought_beams"):
            check(getattr(self, name) >= 1, f"decode.{name} must be at least 1, got {getattr(self, name)}")
        check(self.temperature >= 0, f"decode.temperature must not be negative, got {self.temperature}")
        check(
            self.temperature > 0 or self.thoughts == 1,
            f"decode.temperature=0 thinks the same {self.thoughts} times over: set decode.thoughts=1",
        )
        check(self.merge in MERGE, f"decode.merge must be one of {MERGE}, got {self.merge!r}")
        check(self.num_beams >= 1, f"decode.num_beams must be at least 1, got {self.num_beams}")
        check(self.normalize in NORMALIZE, f"decode.normalize must be one of {NORMALIZE}, got {self.normalize!r}")
        check(self.tokens_per_batch > 0, f"decode.tokens_per_batch must be positive, got {self.tokens_per_batch}")
        check(self.engine in ENGINES, f"decode.engine must be one of {ENGINES}, got {self.engine!r}")
        check(
            self.engine != "openai" or self.normalize != "vocab",
            "decode.normalize=vocab compares codes with words, of which a server gives no probabilities: set "
            "decode.normalize=level (as trained) or valid, or another decode.engine",
        )
        check(
            self.precision in ("auto", "float32", "bfloat16"),
            f"decode.precision must be auto, float32 or bfloat16, got {self.precision!r}",
        )
