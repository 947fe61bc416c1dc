"""OneRecThink at RecBole's seam: owns codes, vocabulary and language model, and answers full_sort_predict.

The constructor walks the rooms in the order the data flows: item text -> vectors -> codes -> tokens -> language model.
Training is the trainer's business. B users, n items without padding, K beams.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_think.artifacts import read_json, require_same, write_json
from recbole_think.blocks import BLOCKS, settle
from recbole_think.corpus.histories import Histories, training_histories
from recbole_think.corpus.items import read_items
from recbole_think.corpus.users import read_profiles
from recbole_think.inputs import atomic_file, require_inputs
from recbole_think.itemic import exchange
from recbole_think.itemic.codes import Codes, health
from recbole_think.options import read_options

if TYPE_CHECKING:
    from recbole_think.ranker import MaskOf, Thought

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """Users to be ranked for."""

    users: np.ndarray  # int64 [B], RecBole ids
    prompts: list[np.ndarray]  # of each, int64 token ids
    histories: list[np.ndarray]  # of each, RecBole item ids the prompt shows, oldest first


class OneRecThink(SequentialRecommender):
    """Generative recommender: a language model that names the next item by its itemic tokens (arXiv 2510.11639)."""

    input_type = InputType.POINTWISE  # RecBole asks for a loss_type otherwise
    OPTIONS: ClassVar = BLOCKS
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
        self.folder, self.cache, self.seed = Path(config["run_folder"]), Path(config["cache_dir"]), config["seed"]
        self.fingerprint = config["data_fingerprint"]
        self.item_mask: Histories | None = None  # set by evaluation.set_mask
        self.thinks = "activation" in config["stages"]  # whether it has learnt to; for a while another, see trainer.py
        self.ready: Iterator[tuple[int, list[int]]] | None = None  # user and list of rows ranked ahead
        self.user_field = config["USER_ID_FIELD"]
        self.items = self._read_texts(config, dataset)
        self.profiles = self._read_profiles(config, dataset)
        self.histories = training_histories(dataset)
        backbone = self._load_backbone()  # before the codes: what is wrong with it should be known early
        self.codes, self.health = self._make_codes()
        self._build_language_model(*backbone)

    settle = staticmethod(settle)

    require_inputs = staticmethod(require_inputs)

    def _read_texts(self, config, dataset):
        raw = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
        items, without = read_items(atomic_file(config, "item"), config["ITEM_ID_FIELD"], raw)
        self.raw_ids = raw
        if without:
            log.warning("%d of %d items have no text and are called by their id", without, len(items))
        return items

    def _read_profiles(self, config, dataset):
        raw = [str(token) for token in dataset.field2id_token[dataset.uid_field][1:]]
        return read_profiles(atomic_file(config, "user"), dataset.uid_field, raw, atomic_file(config, "inter"))

    def _make_codes(self) -> tuple[Codes, dict]:
        """Read the codes of this run folder, or make them."""
        options, folder = self.options["itemic"], self.folder / "itemic"
        wanted = {"options": options.__dict__, "data_fingerprint": self.fingerprint, "seed": self.seed}
        wanted |= exchange.file_digests(options)
        if (folder / "facts.json").is_file():
            facts = read_json(folder / "facts.json")
            require_same(facts["made_from"], wanted, folder)
            return Codes.load(folder / "codes.safetensors"), facts["health"]
        from recbole_think.itemic.build import Built, build_codes
        from recbole_think.itemic.map import write_map

        if options.codes_file:
            built = Built(*exchange.imported_codes(options, self.raw_ids))
        else:
            built = build_codes(options, self.items, self.histories, self.cache, self.seed)
        figures = {**health(built.codes, built.raw, [item.category for item in self.items]), **built.figures}
        built.codes.save(folder / "codes.safetensors")
        exchange.write_ids(folder / exchange.IDS_NAME, self.raw_ids)
        if built.vectors is not None:
            write_map(folder / "map.tsv", built.vectors, self.items, self.seed)
        write_json(folder / "facts.json", {"made_from": wanted, "health": figures})
        return built.codes, figures

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

        vectors = item_vectors(self.options["itemic"], self.items, self.histories, self.cache, self.seed)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Name the best items of every user by beam search: float32 [B, n_items], on the CPU.

        Lists that were ranked ahead (``shards.py``) are looked up.

        Raises:
            InputError: a beam search that cannot be made. (``NotImplementedError`` is never let out: RecBole would
                take it as a request to score all items one by one.)
        """
        from recbole_think.decoding.ranking import full_sort_scores

        try:
            ranked = self.rank(self.asked(interaction)) if self.ready is None else self._looked_up(interaction)
        except NotImplementedError as why:
            raise RuntimeError(f"decoding failed: {why}") from why
        return full_sort_scores(ranked, self.n_items)

    def _looked_up(self, interaction) -> list[list[int]]:
        users = interaction[self.user_field].tolist()
        found = list(islice(self.ready, len(users)))
        if [user for user, _ in found] != users:
            raise RuntimeError("the evaluator asks for other users than were ranked ahead, or in another order")
        return [items for _, items in found]

    def asked(self, interaction) -> "Asked":
        """Users and prompts of an interaction of RecBole's."""
        sequences, lengths = interaction[self.ITEM_SEQ].cpu().numpy(), interaction[self.ITEM_SEQ_LEN].cpu().numpy()
        histories = [row[:length] for row, length in zip(sequences, lengths, strict=True)]
        return Asked(interaction[self.user_field].cpu().numpy(), self.ranker.prompts(histories), histories)

    def users_and_lengths(self, interaction) -> tuple[np.ndarray, np.ndarray]:
        """Users of an interaction and the tokens of their prompts, without making them: int64 [B] each."""
        return interaction[self.user_field].numpy(), self.ranker.lengths(interaction[self.ITEM_SEQ_LEN].numpy())

    def rank(self, asked: "Asked", done: Callable[[int], Any] | None = None) -> list[list[int]]:
        """Rank items for users of the data set, under the mask of the evaluation: RecBole item ids, best first."""
        return self._ranked(asked.prompts, lambda rows: self.mask_of(asked.users[rows]), done)

    def recommend(
        self, histories: list[np.ndarray], mask: torch.Tensor | None = None, instruction: str = ""
    ) -> list[list[int]]:
        """Rank items for each history.

        Args:
            histories: per user int64 [h], RecBole item ids, oldest first; the latest ``prompts.max_history`` count.
            mask: bool [B, n], True = item row + 1 may not be named.
            instruction: a wish in words, such as "only comedies"; it steers what is thought.

        Returns:
            Per user up to ``decode.candidates`` RecBole item ids, best first.
        """
        prompts = self.ranker.prompts(histories, instruction)
        return self._ranked(prompts, lambda rows: None if mask is None else mask[rows])

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
        return replace(options, think=options.think and self.thinks)

    def think(
        self, prompts: list[np.ndarray], mask_of: "MaskOf", options=None, targets: np.ndarray | None = None
    ) -> list[list["Thought"]]:
        """Think after each prompt, as ``decode`` says or as ``options`` do; see ``Ranker.think``."""
        return self.ranker.think(prompts, mask_of, options or self.options["decode"], self.dtype(), targets)

    def _ranked(self, prompts: list[np.ndarray], mask_of: "MaskOf", done=None) -> list[list[int]]:
        return self.ranker.rank(prompts, mask_of, self.decode, self.dtype(), done)

    def dtype(self) -> torch.dtype:
        """What lists are computed in."""
        from recbole_think.stages.precision import choose

        config = self.language_model.config
        return choose(self.options["decode"].precision, self.folder, config.hidden_size, config.intermediate_size)

    def mask_of(self, users: np.ndarray) -> torch.Tensor | None:
        """Turn the histories that may not be repeated into bool [B, n]."""
        if self.item_mask is None:
            return None
        mask = torch.zeros(len(users), self.n_items - 1, dtype=torch.bool)
        rows, items = self.item_mask.cells(users)
        mask[torch.from_numpy(rows), torch.from_numpy(items - 1)] = True
        return mask

    def take_illegal_rate(self) -> float:
        """Share of generated answers that name no item, since last asked."""
        return self.ranker.take_illegal_rate()

    def calculate_loss(self, interaction):
        """RecBole's per-batch training is not how the stages train."""
        raise RuntimeError("OneRecThink is trained by ThinkTrainer's stages, not batch by batch")

    def predict(self, interaction):
        """Sampled evaluation is refused with the configuration; see ``require_inputs``."""
        raise RuntimeError("OneRecThink ranks the whole catalogue; set eval_args.mode=full")
