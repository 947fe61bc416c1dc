"""Sizes of the language models a plan may be made for, and what follows from them: weights, keys and values.

Takes a name, gives numbers of parameters; knows nothing of devices or users.
L layers, d hidden size, f size within a feed-forward layer, H query heads, J key heads, h size of a head, V words.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backbone:
    """A decoder with gated feed-forward layers whose head is its embedding, in the words of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    vocab_size: int

    @property
    def attention_size(self) -> int:
        """H h: numbers of the queries of one token in one layer."""
        return self.num_attention_heads * self.head_size

    @property
    def key_value_weights(self) -> int:
        """2 d J h: weights of one layer that make keys and values."""
        return 2 * self.hidden_size * self.num_key_value_heads * self.head_size

    @property
    def layer_weights(self) -> int:
        """2 d H h + 2 d J h + 3 d f: weights of one layer; norms are left out."""
        width = self.hidden_size
        return 2 * width * self.attention_size + self.key_value_weights + 3 * width * self.intermediate_size

    @property
    def weights(self) -> int:
        """L times those of a layer: every token is multiplied by them."""
        return self.num_hidden_layers * self.layer_weights

    @property
    def parameters(self) -> int:
        """Weights of the layers, and V d of the words."""
        return self.weights + self.vocab_size * self.hidden_size

    @property
    def cache_numbers(self) -> int:
        """2 L J h: keys and values of one token in all layers."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_size


# from the config.json of each model
BACKBONES = {
    "smollm2-135m": Backbone(576, 1536, 30, 9, 3, 64, 49152),
    "qwen3-0.6b": Backbone(1024, 3072, 28, 16, 8, 128, 151936),
    "qwen3-1.7b": Backbone(2048, 6144, 28, 16, 8, 128, 151936),
    "qwen3-4b": Backbone(2560, 9728, 36, 32, 8, 128, 151936),
}
