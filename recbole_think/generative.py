"""What generative recommenders share at RecBole's seam: item texts, codes kept in the run folder, and lists as scores.

A model that names items by their codes gives ranked lists, not scores; here they become the table RecBole's evaluator
reads, or are looked up where they were ranked ahead (``shards.py``). B users, n items without padding, K beams.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_think import processes
from recbole_think.artifacts import read_json, require_same, write_json
from recbole_think.corpus.histories import Histories, training_histories
from recbole_think.corpus.items import read_items
from recbole_think.decoding.engine import OURS
from recbole_think.decoding.item_mask import ItemMask
from recbole_think.errors import InputError
from recbole_think.inputs import atomic_file
from recbole_think.itemic import exchange
from recbole_think.itemic.codes import Codes, health
from recbole_think.itemic.embed import file_vectors
from recbole_think.itemic.options import ItemicOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """Users to be ranked for."""

    users: np.ndarray  # int64 [B], RecBole ids
    prompts: list[np.ndarray]  # of each, int64 token ids
    histories: list[np.ndarray]  # of each, RecBole item ids the prompt shows, oldest first


class GenerativeRecommender(SequentialRecommender):
    """Names the next item by its codes.

    A subclass has a ``ranker`` that makes prompts of histories and counts answers, says how lists are made
    (``decode``), and makes them (``_ranked``).
    """

    input_type = InputType.POINTWISE  # RecBole asks for a loss_type otherwise
    ranker: Any
    decode: Any

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.folder, self.cache, self.seed = Path(config["run_folder"]), Path(config["cache_dir"]), config["seed"]
        self.fingerprint = config["data_fingerprint"]
        self.item_mask: Histories | None = None  # set by evaluation.set_mask
        self.ready: Iterator[tuple[int, list[int]]] | None = None  # user and list of rows ranked ahead
        self.user_field = config["USER_ID_FIELD"]
        self.processes = config["eval_processes"]  # that make lists side by side
        if not isinstance(self.processes, int) or self.processes < 1:
            raise InputError(f"eval_processes must be a whole number of at least 1, got {self.processes!r}")
        if self.device.type != "cpu" or processes.count() > 1:
            self.processes = 1  # more would only wait for the same GPU, or share a process's cores
        self.raw_ids = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
        self.items, without = read_items(atomic_file(config, "item"), config["ITEM_ID_FIELD"], self.raw_ids)
        if without:
            log.warning("%d of %d items have no text and are called by their id", without, len(self.items))
        self.histories = training_histories(dataset)

    @property
    def engine_name(self) -> str:
        """Who makes the lists; only OneRecThink can be told."""
        return getattr(self.decode, "engine", OURS)

    def make_codes(self, options: ItemicOptions) -> tuple[Codes, dict]:
        """Read the codes of this run folder, or make them; the second is what ``health`` says of them."""
        folder = self.folder / "itemic"
        wanted = {"options": options.__dict__, "data_fingerprint": self.fingerprint, "seed": self.seed}
        wanted |= exchange.file_digests(options)
        if not (folder / "facts.json").is_file():
            with processes.first_alone() as mine:
                if mine:
                    self._keep_codes(options, folder, wanted)
        facts = read_json(folder / "facts.json")
        require_same(facts["made_from"], wanted, folder)
        return Codes.load(folder / "codes.safetensors"), facts["health"]

    def _keep_codes(self, options: ItemicOptions, folder: Path, wanted: dict) -> None:
        from recbole_think.itemic.build import Built, build_codes
        from recbole_think.itemic.map import write_map

        if options.codes_file:
            built = Built(*exchange.imported_codes(options, self.raw_ids))
        else:
            built = build_codes(options, self.items, self.histories, self.cache, self.seed, self.read_vectors)
        figures = {**health(built.codes, built.raw, [item.category for item in self.items]), **built.figures}
        built.codes.save(folder / "codes.safetensors")
        exchange.write_ids(folder / exchange.IDS_NAME, self.raw_ids)
        if built.vectors is not None:
            write_map(folder / "map.tsv", built.vectors, self.items, self.seed)
        write_json(folder / "facts.json", {"made_from": wanted, "health": figures})

    def read_vectors(self, path: Path, n: int) -> np.ndarray:
        """Vectors of a file, or the item embeddings of a run folder: float32 [n, d]."""
        if not path.is_dir():
            return file_vectors(path, n)
        from recbole_think.embeddings import item_embeddings

        return item_embeddings(path, self.fingerprint)

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
        found = list(islice(self.ready or (), len(users)))
        if [user for user, _ in found] != users:
            raise RuntimeError("the evaluator asks for other users than were ranked ahead, or in another order")
        return [items for _, items in found]

    def asked(self, interaction) -> Asked:
        """Users and prompts of an interaction of RecBole's."""
        sequences, lengths = interaction[self.ITEM_SEQ].cpu().numpy(), interaction[self.ITEM_SEQ_LEN].cpu().numpy()
        histories = [row[:length] for row, length in zip(sequences, lengths, strict=True)]
        return Asked(interaction[self.user_field].cpu().numpy(), self.ranker.prompts(histories), histories)

    def users_and_lengths(self, interaction) -> tuple[np.ndarray, np.ndarray]:
        """Users of an interaction and the tokens of their prompts, without making them: int64 [B] each."""
        return interaction[self.user_field].numpy(), self.ranker.lengths(interaction[self.ITEM_SEQ_LEN].numpy())

    def rank(self, asked: Asked, done: Callable[[int], Any] | None = None) -> list[list[int]]:
        """Rank items for users of the data set, under the mask of the evaluation: RecBole item ids, best first."""
        return self._ranked(asked.prompts, lambda rows: self.mask_of(asked.users[rows]), done)

    def recommend(
        self, histories: list[np.ndarray], mask: torch.Tensor | None = None, instruction: str = ""
    ) -> list[list[int]]:
        """Rank items for each history.

        Args:
            histories: per user int64 [h], RecBole item ids, oldest first; the latest ones a prompt shows count.
            mask: bool [B, n], True = item row + 1 may not be named.
            instruction: a wish in words, such as "only comedies"; it steers what is thought.

        Returns:
            Per user up to ``decode.candidates`` RecBole item ids, best first.
        """
        prompts = self.ranker.prompts(histories, instruction)
        return self._ranked(prompts, lambda rows: None if mask is None else mask[rows])

    def _ranked(self, prompts: list[np.ndarray], mask_of: Callable, done=None) -> list[list[int]]:
        raise RuntimeError(f"{type(self).__name__} does not say how lists are made")

    def mask_of(self, users: np.ndarray) -> ItemMask | None:
        """Turn the histories that may not be repeated into cells of [B, n]."""
        if self.item_mask is None:
            return None
        rows, items = self.item_mask.cells(users)
        return ItemMask(torch.from_numpy(rows), torch.from_numpy(items - 1), (len(users), self.n_items - 1))

    def take_illegal_rate(self) -> float:
        """Share of generated answers that name no item, since last asked."""
        return self.ranker.take_illegal_rate()

    def predict(self, interaction):
        """Sampled evaluation is refused with the configuration."""
        raise RuntimeError(f"{type(self).__name__} ranks the whole catalogue; set eval_args.mode=full")
