"""Options of the prompts room."""

from dataclasses import dataclass

from recbole_think.options import check


@dataclass(frozen=True)
class PromptOptions:
    """What a prompt holds (YAML block ``prompts:``)."""

    max_history: int = 50  # latest items of a user's history that a prompt shows

    def __post_init__(self):
        check(self.max_history >= 1, f"prompts.max_history must be at least 1, got {self.max_history}")
