"""Dropout within the layers of a backbone that was built without: on what each sublayer adds, and on attention weights.

Backbones are pre-trained on so much text that they carry none; a recommendation stage reads a small data set many times
over. Applied for the length of a stage, by forward hooks and by the layers' own attention dropout; the model is left as
it was.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from recbole_think.stages.dropout import dropout


@contextmanager
def dropping(model: Any, hidden: float, attention: float) -> Iterator[None]:
    """Drop within the block, while the model is in training mode.

    Args:
        model: causal LM with a plain stack of layers.
        hidden: share of the features dropped of what self-attention and feed-forward add to the residual stream.
        attention: share of the attention weights dropped.
    """
    before = [layer.self_attn.attention_dropout for layer in model.get_decoder().layers] if attention else []
    with ExitStack() as undone:
        for layer in model.get_decoder().layers if hidden else ():
            for part in (layer.self_attn, layer.mlp):
                handle = part.register_forward_hook(_Drop(hidden))
                undone.callback(handle.remove)
        for layer, rate in zip(model.get_decoder().layers, before, strict=False):
            layer.self_attn.attention_dropout = attention
            undone.callback(setattr, layer.self_attn, "attention_dropout", rate)
        yield


class _Drop:
    """A forward hook: attention gives a tuple whose first is what it adds, feed-forward gives that alone."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, part: nn.Module, given: Any, found: Any) -> Any:
        if isinstance(found, tuple):
            return (self._dropped(part, found[0]), *found[1:])
        return self._dropped(part, found)

    def _dropped(self, part: nn.Module, added: Tensor) -> Tensor:
        return dropout(added, self.rate, part.training)
