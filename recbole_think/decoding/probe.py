"""A question that tells one model from another: what the codes of a level are worth after a prompt.

Takes an answer and compares it with the one that is known; knows nothing of who gave it. S codes of a level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_think.errors import InputError

SAME = 0.1  # nats by which two readings of the same weights may differ in the mean over codes (bfloat16: some .02)


@dataclass(frozen=True)
class Probe:
    """The question, and what the weights say that lists are to be made with."""

    prompt: Sequence[int]  # token ids
    tokens: Sequence[int]  # S, of the codes
    own: np.ndarray  # float32 [S], their log-probabilities among themselves

    def require_same(self, theirs: np.ndarray, model: str, url: str) -> None:
        """Compare an answer, float32 [S], with what is known.

        Raises:
            InputError: log-probabilities that are not among the codes, or those of another model.
        """
        total = float(np.log(np.exp(theirs).sum()))
        if abs(total) > SAME:
            raise InputError(
                f"the server at {url} gives log-probabilities that are not among the tokens allowed (they sum to "
                f"{np.exp(total):.3g} over a level): start vLLM with --logprobs-mode processed_logprobs"
            )
        apart = float(np.exp(self.own) @ np.abs(self.own - theirs))
        if apart > SAME:
            raise InputError(
                f"the model {model!r} at {url} is not that of this catalogue: its log-probabilities of the first codes "
                f"are {apart:.2f} nats off on average (same weights: under {SAME}); serve the export of this very run "
                f"(python -m recbole_think.export)"
            )
