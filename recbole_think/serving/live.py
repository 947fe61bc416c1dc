"""Versions of the direct model: weights that came after those of the run, which one answers now, and the way back.

A folder beside the store: ``<number>/weights.safetensors`` and ``facts.json`` (written last), and ``current.json``,
which is replaced at once. Number 0 is the run itself.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_think.artifacts import load_tensors, read_json, save_tensors, write_json
from recbole_think.errors import InputError

CURRENT, FACTS, WEIGHTS = "current.json", "facts.json", "weights.safetensors"


@dataclass(frozen=True)
class Live:
    """Versions of the direct model of one run."""

    folder: Path
    run: str = ""  # digest of the run's own weights; "" = of whatever run the folder is

    def current(self) -> int:
        """Number of the version that answers.

        Raises:
            InputError: the folder is of another run, or damaged.
        """
        return int(self._state()["number"])

    def until(self) -> int:
        """Number of the last event that was taken up, whether what it taught was accepted, refused or taken back."""
        return int(self._state()["until"])

    def _state(self) -> dict[str, Any]:
        path = self.folder / CURRENT
        if not path.is_file():
            return {"number": 0, "until": 0, "run": self.run}
        found = read_json(path)
        if not all(isinstance(found.get(name), kind) for name, kind in (("number", int), ("until", int), ("run", str))):
            raise InputError(f"{path} is damaged; delete it, and the run's own weights answer")
        if self.run and found["run"] != self.run:
            raise InputError(f"{self.folder} holds versions of another run's direct model; name another --live folder")
        return found

    def facts(self, number: int) -> dict[str, Any]:
        """What is known of a version.

        Raises:
            InputError: there is none.
        """
        if not number:
            return {"number": 0, "parent": 0, "accepted": True}
        path = self.folder / f"{number:06}" / FACTS
        if not path.is_file():
            raise InputError(f"{self.folder} has no version {number}; it has {self.numbers() or 'none'}")
        return read_json(path)

    def numbers(self) -> list[int]:
        """Versions that are whole, the run itself left out."""
        found = (int(path.parent.name) for path in self.folder.glob(f"*/{FACTS}") if path.parent.name.isdecimal())
        return sorted(found)

    def weights(self, number: int) -> dict[str, Any]:
        """Tensors of a version by name."""
        return load_tensors(self.folder / f"{number:06}" / WEIGHTS)

    def add(self, tensors: dict[str, Any], facts: dict[str, Any]) -> int:
        """Keep a version; it does not answer yet."""
        number = max([0, *self.numbers()]) + 1
        folder = self.folder / f"{number:06}"
        shutil.rmtree(folder, ignore_errors=True)  # what a kill has left
        save_tensors(folder / WEIGHTS, tensors)
        write_json(folder / FACTS, {"number": number, **facts})
        return number

    def switch(self, number: int) -> None:
        """Let a version answer from now on.

        Raises:
            InputError: there is none of this number, or it was not accepted.
        """
        if not self.facts(number)["accepted"]:
            raise InputError(
                f"version {number} did not pass its canary; {self.folder / f'{number:06}' / FACTS} says why"
            )
        self._write(number, self.until())

    def take_up(self, until: int) -> None:
        """Say that all events up to a number have been taken up."""
        self._write(self.current(), until)

    def roll_back(self) -> int:
        """Let the version answer that the one of now came from; what that had learnt is not learnt again by itself.

        Returns:
            Number of the version that was taken back.

        Raises:
            InputError: the run's own weights answer, before which there is nothing.
        """
        now = self.current()
        if not now:
            raise InputError(f"{self.folder}: the run's own weights answer, there is nothing to go back to")
        self._write(self.facts(now)["parent"], self.until())
        return now

    def _write(self, number: int, until: int) -> None:
        write_json(self.folder / CURRENT, {"number": number, "until": until, "run": self._state()["run"]})

    def drop_old(self, kept: int) -> None:
        """Remove all but the latest ``kept`` versions, the one that answers and what it came from."""
        now = self.current()
        needed = {now, self.facts(now)["parent"], *self.numbers()[-kept:]}
        for number in set(self.numbers()) - needed:
            (self.folder / f"{number:06}" / FACTS).unlink()  # first: without it there is no version
            shutil.rmtree(self.folder / f"{number:06}")
