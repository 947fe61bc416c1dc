"""A copy of a language model that multiplies in bfloat16 and keeps in float32 what its lists hang on.

Layers and rows of words are copied in the lower precision, once, so that no product casts its weights; embeddings of
items, norms of the output and the residual stream (``reading.py``) stay float32, and so do the logits of codes
(``likelihood.py``). Autocast casts frozen weights at every use and gives bfloat16 logits.
"""

import copy
from typing import Any

import torch
from torch import nn


def lowered(model: Any, dtype: torch.dtype) -> Any:
    """Return ``model`` itself for float32, else a copy to decode with.

    Args:
        model: causal LM, taught codes or not.
        dtype: of the products.
    """
    if dtype == torch.float32:
        return model
    low = [module for module in (*model.get_decoder().layers, _words(model)) if module is not None]
    replaced = {
        id(value): nn.Parameter(value.detach().to(dtype), requires_grad=False)
        for module in low
        for value in module.parameters()
    }
    return copy.deepcopy(model, replaced).eval()  # deepcopy takes what is in its memo for copied already


def _words(model: Any) -> nn.Module | None:
    """Rows of words in the head; a plain head is left as it is, since its rows are codes as well."""
    return getattr(model.get_output_embeddings(), "text", None)
