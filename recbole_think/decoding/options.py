"""Options of the decoding room."""

from dataclasses import dataclass

from recbole_think.decoding.likelihood import NORMALIZE
from recbole_think.options import check


@dataclass(frozen=True)
class DecodeOptions:
    """How one recommendation list is generated (YAML block ``decode:``)."""

    num_beams: int = 50  # at least max(topk)
    normalize: str = "level"  # softmax over: vocab, level (as trained), valid (legal children alone)
    tokens_per_batch: int = 16384  # padded prompt tokens decoded together
    precision: str = "float32"  # auto, float32, bfloat16; scores are float32 in any case

    def __post_init__(self):
        check(self.num_beams >= 1, f"decode.num_beams must be at least 1, got {self.num_beams}")
        check(self.normalize in NORMALIZE, f"decode.normalize must be one of {NORMALIZE}, got {self.normalize!r}")
        check(self.tokens_per_batch > 0, f"decode.tokens_per_batch must be positive, got {self.tokens_per_batch}")
        check(
            self.precision in ("auto", "float32", "bfloat16"),
            f"decode.precision must be auto, float32 or bfloat16, got {self.precision!r}",
        )
