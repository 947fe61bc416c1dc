"""Taking up another version of the direct model while answers go on: loaded beside the old, swapped between batches."""

import copy
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from recbole_think.options import check
from recbole_think.serving.direct import DirectModel
from recbole_think.serving.live import Live
from recbole_think.serving.online import Recommender
from recbole_think.stages.stage import load_weights

log = logging.getLogger(__name__)


def with_weights(model: DirectModel, language_model: Any, tensors: dict[str, Any]) -> DirectModel:
    """The same model with other weights.

    Args:
        model: whose catalogue, beams and precision are taken over.
        language_model: of the run, left as it is.
        tensors: parameters by name, laid over the run's own; none = the run's own.
    """
    if tensors:
        language_model = copy.deepcopy(language_model)
        load_weights(language_model, tensors)
    ranker = replace(model.ranker, language_model=language_model)
    return DirectModel(ranker, model.dtype, model.num_beams, model.normalize, model.tokens_per_batch)


class Watcher:
    """Looks for another version now and then, in a thread of its own."""

    def __init__(
        self, recommender: Recommender, live: Live, every_s: float,
        between: Callable[[Callable[[], object]], object] = lambda act: act(),
        taken: Callable[[], object] = lambda: None,
    ):  # fmt: skip
        """Take what is needed; ``start`` begins.

        Args:
            recommender: whose model is swapped.
            live: versions.
            every_s: seconds between two looks.
            between: runs what it is given when no answer is being made.
            taken: told when another version answers.
        """
        check(every_s > 0, f"--reload_s must be positive, got {every_s}")
        self.recommender, self.live, self.every_s = recommender, live, every_s
        self._between, self._taken = between, taken
        self._own: Any = recommender.served.model.ranker.language_model
        self._over = threading.Event()
        self._seen = recommender.version
        self._thread = threading.Thread(target=self._run, name="watching", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def look(self) -> bool:
        """Take up another version if there is one; whether there was.

        Raises:
            InputError: it cannot be read.
        """
        number = self.live.current()
        if number == self._seen:
            return False
        tensors = self.live.weights(number) if number else {}
        model = with_weights(self.recommender.model, self._own, tensors)
        frame = model.frame()  # now: what cannot read should not answer

        def swap() -> None:
            self.recommender.use(model, frame, number)
            self._taken()
            log.info("direct model %d answers now", number)

        self._between(swap)
        self._seen = number
        return True

    def _run(self) -> None:
        while not self._over.wait(self.every_s):
            try:
                self.look()
            except Exception as why:  # whatever it is, answers go on, and the next look may go better
                log.warning("the direct model stays as it is: %s", why)
