"""Options of the itemic room."""

from dataclasses import dataclass

from recbole_think.options import check

METHODS = ("rqkmeans", "rqvae")
TABLE = ".safetensors"  # how the name of a code table ends whose rows are the items, in RecBole's order
COLLISIONS = ("reassign", "keep", "extra_level")


@dataclass(frozen=True)
class ItemicOptions:
    """How items become codes (YAML block ``itemic:``)."""

    levels: int = 0  # codes per item; 0 = by the size of the catalogue (see ``shape``)
    size: int = 0  # codes per level; 0 = likewise
    encoder: str = "packaged"  # sentence encoder: packaged weights, a folder, or any sentence-transformers name
    text_weight: float = 1.0
    collaborative_weight: float = 3.0  # weight of co-occurrence vectors of the training histories; 0 = text alone
    collaborative_size: int = 64
    collaborative_window: int = 2  # two items co-occur when at most this far apart in a history
    vector_files: tuple = ()  # further .npy files, float [n_items, d], rows in RecBole's item order; or run folders
    vector_weights: tuple = ()  # one weight per file; empty = all 1
    collisions: str = "reassign"
    method: str = "rqkmeans"
    rqvae_epochs: int = 50
    rqvae_latent: int = 32  # columns of a latent
    rqvae_hidden: int = 256  # width of the hidden layer of encoder and decoder
    rqvae_learning_rate: float = 0.01
    rqvae_batch: int = 256  # items
    codes_file: str = ""  # codes made elsewhere (``exchange``); empty = make them here
    ids_file: str = ""  # which raw item id each of its internal ids stands for

    def __post_init__(self):
        self._check_method()
        self._check_files()
        check(0 <= self.levels <= 26, f"itemic.levels must be 0 (automatic) to 26, got {self.levels}")
        check(self.size == 0 or self.size >= 2, f"itemic.size must be 0 (automatic) or at least 2, got {self.size}")
        check(self.collisions in COLLISIONS, f"itemic.collisions must be one of {COLLISIONS}, got {self.collisions!r}")
        check(
            self.levels + (self.collisions == "extra_level") <= 26,
            f"itemic.levels={self.levels} and an extra level need more than 26 letters; use fewer levels",
        )
        check(
            self.collaborative_size >= 1, f"itemic.collaborative_size must be at least 1, got {self.collaborative_size}"
        )
        check(
            self.collaborative_window >= 1,
            f"itemic.collaborative_window must be at least 1, got {self.collaborative_window}",
        )
        weights = (self.text_weight, self.collaborative_weight, *self.vector_weights)
        check(min(weights) >= 0, f"itemic weights must not be negative, got {weights}")
        check(
            not self.vector_weights or len(self.vector_weights) == len(self.vector_files),
            f"itemic.vector_weights needs one weight per vector file, got {len(self.vector_weights)} for "
            f"{len(self.vector_files)}",
        )
        of_files = len(self.vector_files) if not self.vector_weights else 0
        check(sum(weights) + of_files > 0, "itemic: every weight is 0, nothing to make codes from")

    def _check_method(self):
        check(self.method in METHODS, f"itemic.method must be one of {METHODS}, got {self.method!r}")
        for name in ("rqvae_epochs", "rqvae_latent", "rqvae_hidden", "rqvae_batch"):
            check(getattr(self, name) >= 1, f"itemic.{name} must be at least 1, got {getattr(self, name)}")
        rate = self.rqvae_learning_rate
        check(0 < rate < 1, f"itemic.rqvae_learning_rate must lie between 0 and 1, got {rate}")

    def _check_files(self):
        ours = self.codes_file.endswith(TABLE)
        check(
            not (ours and self.ids_file),
            f"itemic.ids_file explains numbers, {self.codes_file!r} has none: its rows are items; drop itemic.ids_file",
        )
        check(
            ours or bool(self.codes_file) == bool(self.ids_file),
            f"itemic.codes_file and itemic.ids_file go together, got {self.codes_file!r} and {self.ids_file!r}: codes "
            f"made elsewhere are keyed by numbers that only the id map of the same place explains",
        )
        if self.codes_file:
            made_here = {"levels": self.levels, "size": self.size, "method": self.method}
            untouched = {"levels": 0, "size": 0, "method": METHODS[0]}
            for name, value in made_here.items():
                check(
                    value == untouched[name],
                    f"itemic.{name}={value!r} says how codes are made, itemic.codes_file brings them; drop one",
                )


def shape(options: ItemicOptions, n: int) -> tuple[int, int]:
    """Return (levels, size) for a catalogue of ``n`` items, filling in what is left automatic.

    Automatic means twice as many codes as items at least: two levels of up to 64 codes for small catalogues (short
    sequences learn faster), else 256 codes on three levels, or four as in the paper from eight million items on.
    """
    small = next((2**bits for bits in range(1, 7) if 4**bits >= 2 * n), None)
    levels = options.levels or (2 if small else 3 if 2 * n <= 256**3 else 4)
    size = options.size or (n if levels == 1 else small or 256)
    return levels, size if options.size else max(2, min(size, n))


@dataclass(frozen=True)
class BackboneOptions:
    """Which language model is taught (YAML block ``backbone:``)."""

    name: str = "smollm2-135m"  # packaged weights; or tiny, a local folder, a hub name
    layers: int = 2  # keep the first N layers; 0 = all

    def __post_init__(self):
        check(self.layers >= 0, f"backbone.layers must be 0 (all) or more, got {self.layers}")
