"""TIGER: a T5 that reads the codes of a history and writes those of the next item (Rajput et al. 2023, NeurIPS).

The authors' code is not public; the sizes and the token of the user are the paper's. Codes, trie, beam search and the
softmax over the codes of a level are those OneRecThink uses (the paper: RQ-VAE codes of text with a fourth one against
collisions, and free beams, so that some answers are no item). Where we depart further: Adam at one rate instead of
200,000 steps of a decaying one, rows of like length together, and the head is the embeddings, as in the first T5.
B rows, T tokens of a history, L levels, d width, n items.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

from recbole_think.decoding.allowed import allowed_items
from recbole_think.decoding.beam import Search, search
from recbole_think.decoding.ranking import AnswerCount, illegal_answers
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.generative import Asked, GenerativeRecommender
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.options import ItemicOptions
from recbole_think.options import check, read_options
from recbole_think.prompts.batching import prompt_batch, token_batches
from recbole_think.rivals.t5 import T5Reader
from recbole_think.rivals.t5_training import hidden_states

log = logging.getLogger(__name__)
PAD, BEGIN = 0, 0  # T5 begins an answer with the padding token
PROMPT, TARGET = "prompt", "target"  # fields of a training batch


@dataclass(frozen=True)
class TigerOptions:
    """Sizes of the T5, and how lists are made (YAML block ``tiger:``)."""

    think: ClassVar[bool] = False  # never

    layers: int = 4  # of the encoder, and of the decoder
    heads: int = 6
    width: int = 128
    head_width: int = 64
    inner: int = 1024  # width of the feed-forward layers
    dropout: float = 0.1
    decay: bool = True  # the learning rate falls to nothing by half a cosine, epoch by epoch
    user_tokens: int = 2000  # a user is one of so many tokens, by id; 0 = none
    num_beams: int = 20
    normalize: str = "level"  # softmax over: level (as trained), valid (legal children alone)
    tokens_per_batch: int = 8192  # padded tokens of histories decoded together

    def __post_init__(self):
        for name in ("layers", "heads", "width", "head_width", "inner", "num_beams", "tokens_per_batch"):
            check(getattr(self, name) >= 1, f"tiger.{name} must be at least 1, got {getattr(self, name)}")
        check(self.user_tokens >= 0, f"tiger.user_tokens must be 0 (none) or more, got {self.user_tokens}")
        check(0 <= self.dropout < 1, f"tiger.dropout must lie in [0, 1), got {self.dropout}")
        check(self.normalize in ("level", "valid"), f"tiger.normalize must be level or valid, got {self.normalize!r}")

    @property
    def candidates(self) -> int:
        """Items that are looked at for one list."""
        return self.num_beams

    @property
    def shortest_list(self) -> int:
        """Items a list holds at least, where the catalogue has as many."""
        return self.num_beams


BLOCKS = {"itemic": ItemicOptions, "tiger": TigerOptions}


@dataclass
class TigerRanker(AnswerCount):
    """Prompts of histories, and lists after them."""

    model: T5ForConditionalGeneration
    codes: Codes
    options: TigerOptions
    max_history: int

    def __post_init__(self):
        self.trie = SidTrie(torch.from_numpy(self.codes.table))
        starts = np.concatenate([[0], np.cumsum(self.codes.sizes)[:-1]]) + PAD + 1
        self.code_tokens = [
            torch.arange(start, start + size) for start, size in zip(starts.tolist(), self.codes.sizes, strict=True)
        ]
        self.item_tokens = self.codes.table + starts[None]  # int64 [n, L]
        self.first_user = PAD + 1 + sum(self.codes.sizes)

    def prompts(self, histories: list[np.ndarray], users: np.ndarray | None = None) -> list[np.ndarray]:
        """Token ids of each history: the user's token, where there are any and the user is known, then codes.

        Args:
            histories: per user int64 [h], RecBole item ids, oldest first.
            users: int64 [B], RecBole ids.
        """
        heads: list[list[int]] = [[] for _ in histories]
        if users is not None and self.options.user_tokens:
            heads = [[self.first_user + user % self.options.user_tokens] for user in users.tolist()]
        return [
            np.concatenate([np.array(head, np.int64), self.item_tokens[history[-self.max_history :] - 1].reshape(-1)])
            for head, history in zip(heads, histories, strict=True)
        ]

    def lengths(self, histories: np.ndarray) -> np.ndarray:
        """Tokens of each user's prompt, from the number of items of the history: int64 [B]."""
        return (self.options.user_tokens > 0) + self.trie.levels * np.minimum(histories, self.max_history)

    @torch.no_grad()
    def rank(self, prompts: list[np.ndarray], mask_of: Callable, done: Callable | None = None) -> list[list[int]]:
        """Rank after each prompt, those of like length together: RecBole item ids, best first.

        Args:
            prompts: int64 token ids of each.
            mask_of: what may not be named after some of them.
            done: told how many were ranked, batch by batch.
        """
        ranked: list[list[int]] = [[] for _ in prompts]
        fixed = Search(self.model, T5Reader(self.model, BEGIN), self.trie, self.code_tokens, self.options.normalize)
        beams = min(self.options.num_beams, self.trie.n)
        for rows in token_batches([len(prompt) for prompt in prompts], self.options.tokens_per_batch):
            allowed = allowed_items(self.trie, len(rows), None, mask_of(rows))
            device = self.model.device
            ids, mask = (part.to(device) for part in prompt_batch([prompts[row] for row in rows], PAD))
            hidden, at = fixed.reader.prompts(ids, mask)
            found = search(fixed, hidden, at, beams, allowed)
            self.count(*illegal_answers(found.codes, found.items, self.codes.table))
            for row, items in zip(rows, found.items.tolist(), strict=True):
                ranked[row] = [item + 1 for item in items if item >= 0]
            if done is not None:
                done(len(rows))
        return ranked


class TIGER(GenerativeRecommender):
    """Encoder of a history's codes, decoder of the next item's."""

    OPTIONS: ClassVar = BLOCKS
    UNREAD_KEYS: ClassVar = {
        "train_neg_sample_args": "it needs no negative samples",
        "loss_type": "its loss is cross-entropy over the codes of a level",
    }

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        options = read_options(TigerOptions, config["tiger"], "tiger")
        self.codes, self.health = self.make_codes(read_options(ItemicOptions, config["itemic"], "itemic"))
        words = 1 + sum(self.codes.sizes) + options.user_tokens
        self.t5 = T5ForConditionalGeneration(
            T5Config(
                vocab_size=words, d_model=options.width, d_kv=options.head_width, d_ff=options.inner,
                num_layers=options.layers, num_heads=options.heads, dropout_rate=options.dropout, pad_token_id=PAD,
                eos_token_id=None, use_cache=False,
            )
        )  # fmt: skip
        self.ranker = TigerRanker(self.t5, self.codes, options, config["MAX_ITEM_LIST_LENGTH"])
        self.decode = options

    @staticmethod
    def require_inputs(config) -> None:
        """Refuse, before data is loaded, what would fail or mean nothing later."""
        read_options(ItemicOptions, config["itemic"], "itemic")
        options = read_options(TigerOptions, config["tiger"], "tiger")
        if options.num_beams < max(config["topk"]):
            raise InputError(f"tiger.num_beams={options.num_beams} cannot fill a top-{max(config['topk'])} list")
        for phase, mode in config["eval_args"]["mode"].items():
            if mode != "full":
                raise InputError(f"eval_args.mode={mode!r} ({phase}): TIGER names items out of the whole catalogue")

    def asked(self, interaction) -> Asked:
        """See ``GenerativeRecommender``; the user's token comes first."""
        found = super().asked(interaction)
        return Asked(found.users, self.ranker.prompts(found.histories, found.users), found.histories)

    def recommend(self, histories, mask=None, instruction=""):
        """See ``GenerativeRecommender``; nobody in particular has no token, and wishes are not understood.

        Raises:
            InputError: there is a wish.
        """
        if instruction.strip():
            raise InputError("TIGER reads codes, not words: it follows no instruction")
        return self._ranked(self.ranker.prompts(histories), lambda rows: None if mask is None else mask[rows])

    def _ranked(self, prompts, mask_of, done=None):
        self.t5.eval()
        return self.ranker.rank(prompts, mask_of, done)

    def calculate_loss(self, interaction) -> Tensor:
        """Mean cross-entropy of the codes of the next items, each by a softmax over the codes of its level."""
        prompts, targets = interaction[PROMPT], interaction[TARGET]  # int64 [B, T], [B, L]
        begin = torch.full_like(targets[:, :1], BEGIN)
        hidden = hidden_states(self.t5, prompts, PAD, torch.cat([begin, targets[:, :-1]], 1))  # [B, L, d]
        losses = []
        for level, tokens in enumerate(self.ranker.code_tokens):
            rows = self.t5.lm_head.weight[int(tokens[0]) : int(tokens[-1]) + 1]
            logits = functional.linear(hidden[:, level], rows).float()
            losses.append(functional.cross_entropy(logits, targets[:, level] - int(tokens[0])))
        return torch.stack(losses).mean()
