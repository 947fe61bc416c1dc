"""A causal LM and a tokenizer that know only the tokens a stage reads and says.

A library trainer wants a plain model: one embedding, one head, ids that index both. This makes one that shares the
layers of the taught model (training it trains that one) and holds its rows of words and codes side by side, frozen. Of
49,152 words a thought of one data set uses some hundreds: with those alone a softmax costs a hundredth, and nothing
else changes. V tokens of the dialect, d hidden size.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from recbole_think.itemic.vocabulary import Vocabulary

PAD = "<|dialect_pad|>"  # one more row, never read


@dataclass(frozen=True)
class Dialect:
    """Which tokens there are."""

    tokens: np.ndarray  # int64 [V - 1], rising, of the whole vocabulary; the last id of the dialect is its padding

    @property
    def pad(self) -> int:
        """Id of the padding."""
        return len(self.tokens)

    def ids(self, tokens: Any) -> np.ndarray:
        """Ids of the whole vocabulary as ids of the dialect.

        Raises:
            KeyError: a token the dialect does not know.
        """
        tokens = np.asarray(tokens, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.tokens, tokens), len(self.tokens) - 1)
        strange = tokens[self.tokens[places] != tokens]
        if strange.size:
            raise KeyError(f"token {int(strange.flat[0])} is not in the dialect")
        return places

    def tokenizer(self, vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
        """A tokenizer whose words are the spellings of the tokens, apart by blanks."""
        names = [str(name) for name in vocabulary.tokenizer.convert_ids_to_tokens(self.tokens.tolist())]
        words = WordLevel({name: place for place, name in enumerate([*names, PAD])}, unk_token=PAD)
        core = Tokenizer(words)
        core.pre_tokenizer = WhitespaceSplit()
        closes = str(vocabulary.tokenizer.convert_ids_to_tokens(vocabulary.marks[1]))
        return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=closes, padding_side="left")


def spoken_model(model: Any, dialect: Dialect) -> Any:
    """A plain causal LM of a dialect that shares the layers of ``model``.

    Args:
        model: taught causal LM, ``CodeRows`` and ``CodeHead``.
        dialect: its tokens.

    Raises:
        TypeError: the backbone's head is not rows of words alone.
    """
    rows = torch.from_numpy(dialect.tokens)
    embedded = model.get_input_embeddings()
    scale = getattr(embedded.text, "embed_scale", 1.0)
    with torch.no_grad():
        inputs = (embedded(rows.to(next(model.parameters()).device)) / scale).float()
        outputs = model.get_output_embeddings().token_rows(rows)
    if outputs is None:
        raise TypeError("a head with a bias, adapters or quantised rows cannot be made plain")
    shared = {id(value): value for value in model.parameters()}
    spoken = copy.deepcopy(model, shared)  # deepcopy takes what is in its memo for copied already
    table, head = _widened(inputs), _widened(outputs)
    embedding = copy.copy(embedded.text)  # of the backbone's own kind: Gemma's multiplies
    embedding._parameters = {"weight": nn.Parameter(table, requires_grad=False)}
    embedding.num_embeddings, embedding.padding_idx = len(table), None
    spoken.set_input_embeddings(embedding)
    linear = nn.Linear(head.shape[1], head.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(head, requires_grad=False)
    spoken.set_output_embeddings(linear)
    config = spoken.config
    config.vocab_size, config.tie_word_embeddings = len(table), False
    config.bos_token_id = config.eos_token_id = None
    config.pad_token_id = dialect.pad
    return spoken


def dialect_of(*used: Sequence[int] | np.ndarray) -> Dialect:
    """The dialect of some runs of token ids."""
    return Dialect(np.unique(np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in used])))


def _widened(rows: Tensor) -> Tensor:
    """The rows, and one of zeros for the padding."""
    return torch.cat([rows.detach(), rows.new_zeros(1, rows.shape[1])]).contiguous()
