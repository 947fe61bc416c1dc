"""OneRecThink at RecBole's seam: owns codes, vocabulary and language model, and answers full_sort_predict.

The constructor walks the rooms in the order the data flows: item text -> vectors -> codes -> tokens -> language model;
what any generative recommender has is in ``generative.py``. Training is the trainer's business.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from recbole_think.blocks import BLOCKS, settle
from recbole_think.corpus.users import read_profiles
from recbole_think.decoding.engine import OURS
from recbole_think.generative import GenerativeRecommender
from recbole_think.inputs import atomic_file, require_inputs, require_sources
from recbole_think.options import read_options

if TYPE_CHECKING:
    from recbole_think.ranker import MaskOf, Thought


class OneRecThink(GenerativeRecommender):
    """Generative recommender: a language model that names the next item by its itemic tokens (arXiv 2510.11639)."""

    OPTIONS: ClassVar = BLOCKS
    MANY_PROCESSES: ClassVar = True  # its stages and evaluations share the work of several
    UNREAD_KEYS: ClassVar = {
        "epochs": "set recommendation.epochs",
        "learning_rate": "set recommendation.learning_rate",
        "train_batch_size": "set recommendation.tokens_per_batch",
        "weight_decay": "set recommendation.weight_decay",
        "clip_grad_norm": "set recommendation.max_grad_norm",
        "eval_step": "set recommendation.validations",
        "stopping_step": "set recommendation.epochs and recommendation.validations; the best checkpoint is kept",
        "learner": "its stages use AdamW",
        "loss_type": "its loss is cross-entropy over the codes of a level",
        "train_neg_sample_args": "it needs no negative samples",
        "MAX_ITEM_LIST_LENGTH": "set prompts.max_history",
        "enable_amp": "set recommendation.precision",
        "enable_scaler": "set recommendation.precision",
    }

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.options = {name: read_options(cls, config[name], name) for name, cls in BLOCKS.items()}
        self.thinks = "activation" in config["stages"]  # whether it has learnt to
        self.judged: bool | None = None  # while a stage judges its weights: whether lists are made after thinking
        self.profiles = self._read_profiles(config, dataset)
        backbone = self._load_backbone()  # before the codes: what is wrong with it should be known early
        self.codes, self.health = self.make_codes(self.options["itemic"])
        self._build_language_model(*backbone)

    settle = staticmethod(settle)

    require_inputs = staticmethod(require_inputs)
    require_sources = staticmethod(require_sources)

    def _read_profiles(self, config, dataset):
        raw = [str(token) for token in dataset.field2id_token[dataset.uid_field][1:]]
        return read_profiles(atomic_file(config, "user"), dataset.uid_field, raw, atomic_file(config, "inter"))

    def _load_backbone(self):
        from recbole_think.itemic.backbone import load_backbone

        return load_backbone(self.options["backbone"], self.cache, [item.text for item in self.items], self.seed)

    def _build_language_model(self, language_model, tokenizer) -> None:
        from recbole_think.itemic.vocabulary import extend_tokenizer, teach_vocabulary
        from recbole_think.ranker import Ranker

        self.language_model = language_model
        self.vocabulary = extend_tokenizer(tokenizer, self.codes)
        teach_vocabulary(language_model, self.vocabulary, self.codes, [item.text for item in self.items])
        self.ranker = Ranker(
            language_model, self.vocabulary, self.codes, self.options["prompts"].max_history, self._words(), self.seed
        )

    def _words(self) -> torch.Tensor:
        """Tokens a thought may be made of."""
        from recbole_think.prompts.rationale import category_texts, traits
        from recbole_think.prompts.thinking import all_words, taught_words

        options = self.options["activation"]
        if not options.taught_words:
            return torch.from_numpy(all_words(self.vocabulary))
        said = traits(self.items, options.named, self.vocabulary)
        return torch.from_numpy(taught_words(category_texts(self.items, said), self.vocabulary))

    def item_vectors(self) -> np.ndarray:
        """What the codes were made of, or would be: float32 [n, d], unit rows."""
        from recbole_think.itemic.build import item_vectors

        asked = (self.options["itemic"], self.items, self.histories, self.cache, self.seed, self.read_vectors)
        vectors = np.asarray(item_vectors(*asked))  # inputs.py refuses those that stay on disk
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def thoughts(self, histories: list[np.ndarray], instruction: str = "") -> list[list[str]]:
        """What is thought after each history, ``decode.thoughts`` times, items by title."""
        from recbole_think.prompts.rationale import decoded, items_by_tokens, spoken

        items_of = items_by_tokens(self.vocabulary)
        thought = self.think(self.ranker.prompts(histories, instruction), lambda rows: None)
        return [[spoken(decoded(one.ids, self.vocabulary, items_of), self.items) for one in of] for of in thought]

    @property
    def decode(self):
        """How lists are made now."""
        options = self.options["decode"]
        if self.judged is not None:  # weights that are still being taught are nowhere else
            options = replace(options, think=self.judged, engine=OURS)
        return replace(options, think=options.think and self.thinks)

    def think(
        self, prompts: list[np.ndarray], mask_of: "MaskOf", options=None, targets: np.ndarray | None = None
    ) -> list[list["Thought"]]:
        """Think after each prompt, as ``decode`` says or as ``options`` do; see ``Ranker.think``."""
        options = options or self.options["decode"]
        self.open_engine(options.engine)
        return self.ranker.think(prompts, mask_of, options, self.dtype(), targets)

    def _ranked(self, prompts: list[np.ndarray], mask_of: Callable, done=None) -> list[list[int]]:
        self.open_engine(self.decode.engine)
        return self.ranker.rank(prompts, mask_of, self.decode, self.dtype(), done)

    def open_engine(self, engine: str) -> None:
        """Load or connect to an engine, the first time it is asked for.

        Raises:
            InputError: as ``engines.open_engine``.
        """
        if engine != OURS and self.ranker.engine is None:
            from recbole_think.engines import open_engine

            self.ranker.engine = open_engine(engine, self.options["engine"], self.ranker, self.dtype())

    def dtype(self) -> torch.dtype:
        """What lists are computed in."""
        from recbole_think.stages.precision import choose

        config = self.language_model.config
        return choose(self.options["decode"].precision, self.folder, config.hidden_size, config.intermediate_size)

    def calculate_loss(self, interaction):
        """RecBole's per-batch training is not how the stages train."""
        raise RuntimeError("OneRecThink is trained by ThinkTrainer's stages, not batch by batch")
