"""Histories from RecBole's split: what each user did, in order, and which items a list may not repeat.

Takes the built data sets of one split and gives numpy arrays of RecBole-internal ids.
The loader's own rows are cut to MAX_ITEM_LIST_LENGTH; these histories are whole.
"""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Histories:
    """One ordered item list per user, as flat arrays: user ``u`` has ``items[starts[u]:starts[u + 1]]``."""

    starts: np.ndarray  # int64 [n_users + 1]
    items: np.ndarray  # int64 [n_events]

    @property
    def n_users(self) -> int:
        """Number of users, RecBole's padding user 0 included."""
        return len(self.starts) - 1

    def of(self, user: int) -> np.ndarray:
        """Return the items of one user, oldest first."""
        return self.items[self.starts[user] : self.starts[user + 1]]

    def events(self) -> tuple[np.ndarray, np.ndarray]:
        """User of every event, and its place within their history: int64 [n_events] each."""
        users = np.repeat(np.arange(self.n_users), np.diff(self.starts))
        return users, np.arange(len(users)) - self.starts[users]

    def cells(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (row, item) pairs of all items of ``users``, to index a table ``[len(users), n_items]``."""
        lengths = self.starts[users + 1] - self.starts[users]
        rows = np.repeat(np.arange(len(users)), lengths)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return rows, self.items[self.starts[users][rows] + within]

    def extended(self, users: np.ndarray, items: np.ndarray) -> "Histories":
        """Return histories with one later event appended for each (user, item) pair."""
        all_users = np.concatenate([np.repeat(np.arange(self.n_users), np.diff(self.starts)), users])
        return from_pairs(all_users, np.concatenate([self.items, items]), self.n_users)


def from_pairs(users: np.ndarray, items: np.ndarray, n_users: int) -> Histories:
    """Group (user, item) pairs by user, keeping their order."""
    order = np.argsort(users, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))])
    return Histories(starts.astype(np.int64), items[order].astype(np.int64))


def without_last(histories: Histories, shortest: int = 3) -> Histories:
    """Histories without the last event of every user who has at least ``shortest``."""
    lengths = np.diff(histories.starts)
    last = histories.starts[1:][lengths >= shortest] - 1
    kept = np.ones(len(histories.items), dtype=bool)
    kept[last] = False
    starts = np.concatenate([[0], np.cumsum(lengths - (lengths >= shortest))])
    return Histories(starts.astype(np.int64), histories.items[kept])


def training_histories(dataset) -> Histories:
    """Return the whole training history of every user from RecBole's training data set.

    A sequential data set holds one row per (prefix, target): the targets in order are the history, and the row
    whose prefix is a single item gives the first event. Nothing of validation or test is in these rows.
    """
    users, items = _training_events(dataset, dataset.iid_field)
    return from_pairs(users, items, dataset.user_num)


def training_times(dataset) -> np.ndarray:
    """Return the time of every training event, float [n_events], beside the items of ``training_histories``.

    In the unit RecBole holds: by default scaled to [0, 1] over the whole data set (docs/fairness.md).
    """
    users, times = _training_events(dataset, dataset.time_field)
    return times[np.argsort(users, kind="stable")]


def _training_events(dataset, field: str) -> tuple[np.ndarray, np.ndarray]:
    """User and value of ``field`` of every training event, each user's in order."""
    users, values = dataset.inter_feat[dataset.uid_field].numpy(), dataset.inter_feat[field].numpy()
    length_field = getattr(dataset, "item_list_length_field", None)
    if length_field is None or length_field not in dataset.inter_feat:
        return users, values
    lengths = dataset.inter_feat[length_field].numpy()
    lists = dataset.inter_feat[field + dataset.config["LIST_SUFFIX"]].numpy()
    heads = _first_rows(users)
    head_rows = [lists[row][: lengths[row]] for row in heads]
    head_users = np.repeat(users[heads], [len(head) for head in head_rows])
    return np.concatenate([head_users, users]), np.concatenate([*head_rows, values])


def _first_rows(users: np.ndarray) -> np.ndarray:
    """Index of each user's first row."""
    return np.unique(users, return_index=True)[1]


def targets(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the (users, items) pairs a validation or test data set asks for."""
    return dataset.inter_feat[dataset.uid_field].numpy(), dataset.inter_feat[dataset.iid_field].numpy()


def begun(histories: Histories, dataset) -> Histories:
    """Histories where users who have none begin with what the first of their rows in ``dataset`` brings.

    Such users occur where time parts a data set (``corpus/parts.py``); elsewhere nothing changes.
    """
    if getattr(dataset, "item_list_length_field", None) is None:  # rows without histories
        return histories
    users, _ = targets(dataset)
    rows = _first_rows(users)
    rows = rows[np.diff(histories.starts)[users[rows]] == 0]
    if not len(rows):
        return histories
    lengths = dataset.inter_feat[dataset.item_list_length_field].numpy()[rows]
    lists = dataset.inter_feat[dataset.item_id_list_field].numpy()[rows]
    heads = np.concatenate([items[:length] for items, length in zip(lists, lengths, strict=True)])
    return histories.extended(np.repeat(users[rows], lengths), heads)


def asked_before(users: np.ndarray) -> np.ndarray:
    """How many rows before each one are of the same user: int64 [U]; 0 everywhere where users are asked about once."""
    order = np.argsort(users, kind="stable")
    starts = np.flatnonzero(np.r_[True, users[order][1:] != users[order][:-1]])
    before = np.empty(len(users), np.int64)
    before[order] = np.arange(len(users)) - np.repeat(starts, np.diff(np.r_[starts, len(users)]))
    return before


def repeated_share(seen: Histories, users: np.ndarray, items: np.ndarray) -> float:
    """Return the share of targets a user has already met: with ``mask_history`` no model can hit those."""
    return float(np.mean([item in seen.of(user) for user, item in zip(users, items, strict=True)]))


def fingerprint(train: Histories, *held_out: tuple[np.ndarray, np.ndarray], users, items) -> str:
    """Digest of a split in raw ids, equal for every model that trains and is tested on the same events.

    Args:
        train: training histories.
        held_out: (users, items) of validation and of test.
        users: raw user id per internal id.
        items: raw item id per internal id.
    """
    lines = {str(users[u]): [str(items[i]) for i in train.of(u)] for u in range(1, train.n_users)}
    for part in held_out:
        for user, item in sorted(zip(*part, strict=True)):
            lines[str(users[user])].append(f"| {items[item]}")
    digest = hashlib.sha256(f"{len(items)} items".encode())  # the catalogue that is ranked
    for user in sorted(lines):
        digest.update(f"{user}\t{' '.join(lines[user])}\n".encode())
    return digest.hexdigest()[:16]


def windows(
    histories: Histories, longest: int, generator: np.random.Generator, without: Collection[int] = ()
) -> Iterator[np.ndarray]:
    """Cut every history into windows of consecutive items, shuffled; see ``spans``.

    Yields:
        int64 [2..longest] RecBole item ids.
    """
    for span in spans(histories, longest, generator, without):
        yield histories.items[span]


def spans(
    histories: Histories, longest: int, generator: np.random.Generator, without: Collection[int] = ()
) -> Iterator[slice]:
    """Say where to cut every history into windows of consecutive events, shuffled; each epoch cuts elsewhere.

    Every transition of a history is in exactly one window: windows share the event they meet at. The first cut is
    drawn at random, so over epochs an item is predicted from short and long contexts.

    Args:
        histories: training histories.
        longest: most events of a window (history and target).
        generator: randomness of this epoch.
        without: users left out.

    Yields:
        slices of ``histories.items``, and of whatever lies beside it, 2 to ``longest`` long.
    """
    found = []
    for user in range(1, histories.n_users):
        begin, end = int(histories.starts[user]), int(histories.starts[user + 1])
        if end - begin < 2 or user in without:
            continue
        cut = end if end - begin <= longest else begin + int(generator.integers(2, longest + 1))
        while True:
            found.append(slice(begin, min(cut, end)))
            if cut >= end:
                break
            begin, cut = cut - 1, cut - 1 + longest
    for index in generator.permutation(len(found)):
        yield found[index]
