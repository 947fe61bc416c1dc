"""What is done for users offline and online: steps and bytes, for the sections of a plan and for what is measured.

Users whose history changed are thought for offline: thoughts are sampled, and the first codes of the best beams after
each are kept. Online a prompt is read (or was kept), and beams finish the item.
"""

from dataclasses import dataclass
from itertools import chain

from recbole_think.options import check
from recbole_think.plan.assumptions import Assumptions
from recbole_think.plan.building import CODE_BYTES, FLOAT_BYTES, PLACE_BYTES
from recbole_think.plan.costs import Inference, Step, candidate_bytes, word_bytes

DAY = 86400.0


@dataclass(frozen=True)
class Crowd:
    """Users under some assumptions: how many are served, steps of serving some of them at once, their memory."""

    given: Assumptions

    @property
    def count(self) -> Inference:
        """Of the backbone in the device's precision."""
        return Inference(self.given.model, self.given.device.number_bytes)

    @property
    def prompt(self) -> int:
        """frame_tokens + history x levels."""
        return self.given.frame_tokens + self.given.history * self.given.levels

    @property
    def said(self) -> int:
        """Tokens of a thought with its closing mark."""
        return self.given.thought_tokens + 1

    @property
    def weights_bytes(self) -> float:
        """Parameters in the device's precision."""
        return float(self.given.device.number_bytes * self.given.model.parameters)

    @property
    def sizes(self) -> list[int]:
        """Codes of each level."""
        return [self.given.size] * self.given.levels

    def changed(self) -> float:
        """Users with a new event since the last refresh: users x (1 - (1 - active_share)^refresh_days)."""
        return self.given.users * (1 - (1 - self.given.active_share) ** self.given.refresh_days)

    def peak(self) -> float:
        """Requests a second: users x active_share x requests_per_day / 86400 x peak_factor."""
        given = self.given
        return given.users * given.active_share * given.requests_per_day / DAY * given.peak_factor

    @property
    def room(self) -> float:
        """Bytes of a device besides weights: memory x memory_share - weights."""
        return self.given.device.memory_bytes * self.given.memory_share - self.weights_bytes

    def require_room(self) -> None:
        """Check that weights fit a device, and beside them a user's thoughts and a batch of lists.

        Raises:
            InputError: what does not fit.
        """
        given = self.given
        needed = {
            f"the weights of {given.backbone}": 0.0,
            "the thoughts of one user": self.thought_bytes(given.prefix_levels),
            f"a batch of serving_batch={given.serving_batch:,} users": self.answering_bytes(given.serving_batch),
        }
        for what, needs in needed.items():
            wanted, may = needs + self.weights_bytes, self.room + self.weights_bytes
            check(
                wanted < may,
                f"{given.gpu} has no room for {what}: with the weights {wanted / 1e9:,.1f} GB of the {may / 1e9:,.1f} "
                f"that may be used; take a larger --gpu or --memory_share, or ask for less",
            )

    def thinking_batch(self) -> int:
        """Users thought for at once, few prompts being read at a time: memory besides weights / bytes of a user."""
        return min(self.given.users, int(self.room / self.thought_bytes(self.given.prefix_levels)))

    def thinking(self, users: int) -> dict[str, list[Step]]:
        """Steps of thinking for some users at once: the thoughts, then the prefixes after each."""
        given, count = self.given, self.count
        told = count.sampling(users, self.prompt + 1, given.thoughts, self.said, given.model.vocab_size)
        seen, kept = self.prompt + self.said, self.prompt + given.thoughts * self.said
        found = count.searching(users, given.thoughts, given.prefixes, seen, kept, self.sizes[: given.prefix_levels])
        return {"prompts": told[:1], "thoughts": told[1:], "prefixes": found}

    def thinking_seconds(self) -> float:
        """GPU seconds of thinking for one user, of as many as are thought for at once."""
        users = self.thinking_batch()
        return self.given.pace.seconds(chain(*self.thinking(users).values())) / users

    def answering(self, users: int, kept: bool) -> list[Step]:
        """Steps of a list without a thought: the prompt, or what is new of it, then beams down all levels."""
        given, count = self.given, self.count
        new = given.fresh_items * given.levels
        first = count.reading(users, new, self.prompt - new) if kept else count.reading(users, self.prompt)
        return [first, *count.searching(users, 1, given.beams, self.prompt, self.prompt, self.sizes)]

    def thinking_online(self, users: int) -> list[Step]:
        """Steps of a list after thoughts: the thoughts, then beams down all levels after each."""
        given, parts = self.given, self.thinking(users)
        seen, kept = self.prompt + self.said, self.prompt + given.thoughts * self.said
        last = self.count.searching(users, given.thoughts, given.prefixes, seen, kept, self.sizes)
        return [*parts["prompts"], *parts["thoughts"], *last]

    def answering_bytes(self, users: int) -> float:
        """Keys and values of prompts, and the larger of reading them and of following beams to the last level."""
        given, count = self.given, self.count
        beams = count.cache_bytes(given.beams * (given.levels - 1)) + count.workspace_bytes(given.beams)
        beams += candidate_bytes(given.beams, given.size)
        return users * (count.cache_bytes(self.prompt) + max(count.workspace_bytes(self.prompt), beams))

    def thought_bytes(self, levels: int) -> float:
        """Keys and values of prompt, thoughts and beams, and the larger of drawing words and of following beams."""
        given, beams = self.given, self.given.thoughts * self.given.prefixes
        tokens = self.prompt + given.thoughts * self.said + beams * (levels - 1)
        words = self.count.workspace_bytes(given.thoughts) + word_bytes(given.thoughts, given.model.vocab_size)
        codes = self.count.workspace_bytes(beams) + candidate_bytes(beams, given.size)
        return self.count.cache_bytes(tokens) + max(words, codes)

    def thinking_bytes(self, users: int) -> float:
        """The larger of reading and of what follows, where prompts are read together."""
        reading = self.count.cache_bytes(self.prompt) + self.count.workspace_bytes(self.prompt)
        return users * max(reading, self.thought_bytes(self.given.levels))

    def record_bytes(self) -> int:
        """thoughts x (thought_tokens x 4 + prefixes x (prefix_levels x 2 + 4)) + record_overhead_bytes."""
        given = self.given
        prefix = given.prefix_levels * CODE_BYTES + FLOAT_BYTES
        told = given.thought_tokens * PLACE_BYTES + given.prefixes * prefix
        return given.thoughts * told + given.record_overhead_bytes
