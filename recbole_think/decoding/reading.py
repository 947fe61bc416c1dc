"""How a model reads for the search: a prompt once, and what follows it branching off without a copy of it.

Two readers of one shape, ``packed.py`` for known families and ``masked.py`` for every other causal LM.
B prompts, T tokens of the longest, R rows (B or a multiple), K branches of a row, d hidden size.
"""

from typing import Any, Protocol

from torch import Tensor

from recbole_think.decoding.masked import MaskedReader
from recbole_think.decoding.packed import PackedReader
from recbole_think.errors import InputError

KNOWN = ("llama", "qwen2", "qwen3", "gemma", "gemma3_text")  # layers that PackedReader can walk


class Reader(Protocol):
    """What reads for the search."""

    def prompts(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Any]:
        """Read left-padded prompts [B, T]; return hidden states after each, [B, 1, d], and where branches begin."""

    def step(self, at: Any, tokens: Tensor, parent: Tensor | None, live: Tensor | None = None) -> tuple[Tensor, Any]:
        """Append one token to each of K branches of R rows.

        Args:
            at: where to go on; it stays usable until something before it is stepped from.
            tokens: int64 [R, K].
            parent: int64 [R, K], which earlier branch of the row each one continues; None = its own namesake, and
                ``at`` is not usable any more.
            live: bool [R, K], False = this branch has ended and reads nothing; None = all read.

        Returns:
            Hidden states [R, K, d] (of an ended branch: anything), and where to go on.
        """

    def opened(self, at: Any) -> Any:
        """Every branch of ``at`` as a row of its own, of which new branches may go off."""


def reader_of(model: Any, longest: int) -> Reader:
    """The fast reader where the backbone's family is known, else the one that reads everything.

    Args:
        model: causal LM.
        longest: most tokens a prompt and what follows it may have.

    Raises:
        InputError: the backbone caps its logits, or looks back less far than ``longest``.
    """
    config = model.config
    if getattr(config, "final_logit_softcapping", None):
        raise InputError(f"backbone {config.model_type!r} caps its logits, which decoding does not: use another one")
    windowed = "sliding_attention" in (getattr(config, "layer_types", None) or [])
    if windowed and longest > config.sliding_window:
        raise InputError(
            f"prompts of {longest} tokens, but layers of this backbone look back {config.sliding_window}: "
            f"lower prompts.max_history"
        )
    known = config.model_type in KNOWN and not getattr(config, "use_bidirectional_attention", False)
    return PackedReader(model) if known else MaskedReader(model)
