"""What was read of everybody's last prompt, within a bound: the longest unused goes first."""

from collections import OrderedDict

import numpy as np

from recbole_think.decoding.kept import Kept


class PromptCache:
    """Keys and values by user; one thread's."""

    def __init__(self, most: int):
        """Begin empty.

        Args:
            most: bytes that are kept at most; 0 = nothing is.
        """
        self.most, self.held = most, 0  # bytes
        self.hits = self.misses = self.evicted = 0  # prompts that began as a kept one, that did not; kept ones dropped
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._frame: Kept | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def begin_with(self, frame: Kept) -> None:
        """Tell what all prompts begin with; it is not counted, and never dropped."""
        self._frame = frame

    def find(self, user: str | None, prompt: np.ndarray) -> Kept | None:
        """What was read of a prompt of this user's, or what all begin with."""
        kept = None if user is None else self._kept.get(user)
        frame = 0 if self._frame is None else self._frame.shared_with(prompt)
        if user is None or kept is None or kept.shared_with(prompt) <= frame:
            self.misses += 1
            return self._frame
        self._kept.move_to_end(user)
        self.hits += 1
        return kept

    def put(self, user: str, kept: Kept) -> None:
        """Keep what was read of a user's prompt, in place of the one before."""
        self._drop(user)
        if kept.nbytes > self.most:
            return
        self._kept[user] = kept
        self.held += kept.nbytes
        while self.held > self.most:
            self._drop(next(iter(self._kept)))
            self.evicted += 1

    def _drop(self, user: str) -> None:
        kept = self._kept.pop(user, None)
        if kept is not None:
            self.held -= kept.nbytes

    def clear(self) -> None:
        """Forget all, the common beginning too: another model reads otherwise."""
        self._kept.clear()
        self.held, self._frame = 0, None
