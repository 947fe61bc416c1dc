"""Options of the stages."""

from dataclasses import dataclass

from recbole_think.options import check

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class RecommendationOptions:
    """Next-item supervised fine-tuning (YAML block ``recommendation:``)."""

    epochs: int = 3
    learning_rate: float = 1e-3
    row_learning_rate: float = 3e-3  # of the itemic token rows
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 0.05
    tokens_per_batch: int = 2048  # tokens of one optimizer step
    row_tokens: int = 192  # histories are packed into rows of this many tokens
    dropout: float = 0.1  # on embedded tokens
    max_grad_norm: float = 1.0
    validations: int = 3  # evenly spaced, the last after the last step; the best one's weights are kept
    valid_users: int = 0  # validate on a fixed sample of this many users; 0 = all
    checkpoints: int = 4  # evenly spaced points an interrupted run can go on from
    precision: str = "auto"  # auto = bfloat16 where measured faster

    def __post_init__(self):
        check(self.epochs >= 1, f"recommendation.epochs must be at least 1, got {self.epochs}")
        check(self.learning_rate > 0, f"recommendation.learning_rate must be positive, got {self.learning_rate}")
        check(
            self.row_learning_rate >= 0,
            f"recommendation.row_learning_rate must not be negative, got {self.row_learning_rate}",
        )
        check(self.weight_decay >= 0, f"recommendation.weight_decay must not be negative, got {self.weight_decay}")
        check(self.max_grad_norm > 0, f"recommendation.max_grad_norm must be positive, got {self.max_grad_norm}")
        check(0 <= self.warmup < 1, f"recommendation.warmup is a share of the steps, got {self.warmup}")
        check(
            self.tokens_per_batch > 0, f"recommendation.tokens_per_batch must be positive, got {self.tokens_per_batch}"
        )
        check(self.row_tokens > 0, f"recommendation.row_tokens must be positive, got {self.row_tokens}")
        check(0 <= self.dropout < 1, f"recommendation.dropout must lie in [0, 1), got {self.dropout}")
        check(self.validations >= 1, f"recommendation.validations must be at least 1, got {self.validations}")
        check(self.valid_users >= 0, f"recommendation.valid_users must be 0 (all) or more, got {self.valid_users}")
        check(self.checkpoints >= 0, f"recommendation.checkpoints must not be negative, got {self.checkpoints}")
        check(
            self.precision in PRECISIONS,
            f"recommendation.precision must be one of {PRECISIONS}, got {self.precision!r}",
        )
