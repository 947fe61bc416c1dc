"""Options of the prompts room."""

from dataclasses import dataclass

from recbole_think.options import check

OWN = "own"
# of multi-task integration; the place of each seeds its chance, so new ones come last
TASKS = ("sequential", "persona", "captioning", "general", "naming", "next_title")
NAMED = ("kinds", "paths", "codes")  # how a rationale names what items have in common


@dataclass(frozen=True)
class PromptOptions:
    """What a prompt holds (YAML block ``prompts:``)."""

    max_history: int = 20  # latest items of a user's history that a prompt shows

    def __post_init__(self):
        check(self.max_history >= 1, f"prompts.max_history must be at least 1, got {self.max_history}")


@dataclass(frozen=True)
class AlignmentOptions:
    """What both alignment stages read, and how alignment is measured (YAML block ``alignment:``)."""

    general: str = OWN  # general text: the backbone's own answers, a folder of .txt files, or a .jsonl file
    general_prompts: int = 0  # of our questions, for ``own``; 0 = all
    answer_tokens: int = 64  # longest general text
    description_tokens: int = 48  # longest item description
    persona_items: int = 8  # items of one persona text
    held_out: float = 0.1  # share of items, users and general texts that alignment never trains on
    judged_items: int = 200  # held-out items described and looked for when alignment is measured; 0 = not measured

    def __post_init__(self):
        for name in ("answer_tokens", "description_tokens", "persona_items"):
            check(getattr(self, name) >= 1, f"alignment.{name} must be at least 1, got {getattr(self, name)}")
        check(
            self.general_prompts >= 0, f"alignment.general_prompts must be 0 (all) or more, got {self.general_prompts}"
        )
        check(0 < self.held_out < 1, f"alignment.held_out is a share between 0 and 1, got {self.held_out}")
        check(self.judged_items >= 0, f"alignment.judged_items must be 0 (none) or more, got {self.judged_items}")
