"""The second half of a plan: thinking ahead, the store, answering, the network, and how often all of it is done anew.

Takes assumptions, gives lines; ``crowd.py`` says what is done for a user.
"""

from math import ceil

from recbole_think.plan.assumptions import Assumptions
from recbole_think.plan.building import CODE_BYTES, FLOAT_BYTES, ID_BYTES, PLACE_BYTES, TRIE_S, trie_bytes
from recbole_think.plan.crowd import DAY, Crowd
from recbole_think.plan.lines import Line

HOUR = 3600.0
BEAM_BYTES = CODE_BYTES + FLOAT_BYTES + PLACE_BYTES  # of one that a shard of the catalogue proposes


def thinking(given: Assumptions) -> list[Line]:
    """The offline half of Think-Ahead."""
    crowd = Crowd(given)
    users, each, pace = crowd.thinking_batch(), crowd.thinking_seconds(), given.pace
    how = {
        "prompts": "2 (W - w + c) T + 2 (w - c) + 4 H h ((L - 1) T + 1) T + a head",
        "thoughts": "thoughts x sum over tokens of (2 W + 4 L H h seen + 2 d words); 40 bytes a logit",
        "prefixes": "thoughts x (2 d size + prefixes x (2 W + 4 L H h seen + 2 d size) a further level)",
    }
    lines = [
        Line("users to think for, a refresh", crowd.changed(), "", "users x (1 - (1 - active_share)^refresh_days)"),
        Line("prompt", crowd.prompt, "tokens", "frame_tokens + history x levels"),
        Line("users at once on a GPU", users, "", "(memory x memory_share - weights) / bytes of a user"),
    ]
    for name, part in crowd.thinking(users).items():
        flops, moved = sum(step.flops for step in part) / users, sum(step.bytes for step in part) / users
        lines += [
            Line(f"{name}, of a user", flops, "FLOP", how[name]),
            Line(f"{name}, bound by products", flops / pace.flops_per_s * 1e3, "ms", "FLOP / rate"),
            Line(f"{name}, bound by memory", moved / pace.bytes_per_s * 1e3, "ms", "bytes / bandwidth"),
        ]
    hours = crowd.changed() * each / HOUR
    return [
        *lines,
        Line("a user, step by step the longer", each * 1e3, "ms", "sum over steps of max(both, step_ms) / users"),
        Line("a refresh", hours, "GPU h", "users to think for x time of a user"),
        Line("GPUs that keep up with refreshes", hours / 24 / given.refresh_days / given.busy_share, "GPUs",
             "GPU h / 24 / refresh_days / busy_share"),
        Line("everybody once", given.users * each / HOUR, "GPU h", "users x time of a user"),
    ]  # fmt: skip


def store(given: Assumptions) -> list[Line]:
    """What was thought, kept for every user."""
    crowd = Crowd(given)
    record = crowd.record_bytes()
    written = crowd.changed() * record * given.replicas / (given.refresh_days * DAY)
    return [
        Line("record of a user", record, "B", "thoughts x (thought_tokens x 4 + prefixes x (prefix_levels x 2 + 4)) "
             "+ record_overhead_bytes"),
        Line("store, one copy", float(given.users) * record, "B", "users x record"),
        Line("store, all copies", float(given.users) * record * given.replicas, "B", "x replicas"),
        Line("written", written, "B/s", "changed users x record x replicas / refresh_days"),
        Line("records written", written / record, "/s", "the same / record"),
        Line("read at peak", crowd.peak() * record, "B/s", "peak requests x record"),
    ]  # fmt: skip


def serving(given: Assumptions) -> list[Line]:
    """The online half: requests, GPUs, what thinking online would take instead, memory."""
    crowd, users = Crowd(given), given.serving_batch
    lines = [Line("requests at peak", crowd.peak(), "/s",
                  "users x active_share x requests_per_day / 86400 x peak_factor")]  # fmt: skip
    ways = {
        "prompt read anew": crowd.answering(users, False),
        "prompt kept": crowd.answering(users, True),
        "thinking online instead": crowd.thinking_online(users),
    }
    for name, steps in ways.items():
        taken = given.pace.seconds(steps)
        needed = crowd.peak() * taken / users / given.busy_share
        lines += [
            Line(
                f"{name}, a batch", taken * 1e3, "ms", "sum over steps of max(FLOP / rate, bytes / bandwidth, step_ms)"
            ),
            Line(f"{name}, users of a GPU", users / taken, "/s", "serving_batch / time of a batch"),
            Line(f"{name}, at peak", needed, "GPUs", "peak requests / users of a GPU / busy_share"),
        ]
    trie = trie_bytes(given.items, given.size, given.levels)
    return [
        *lines,
        Line("weights on a GPU", crowd.weights_bytes, "B", "parameters x bytes of a number"),
        Line("a batch beside them", crowd.answering_bytes(users), "B",
             "users x (k b T + max(4 T (7 d + 3 f), beams (k b (levels - 1) + 4 (7 d + 3 f) + 37 size)))"),
        Line("trie beside them", trie, "B", "as above; in main memory or on the GPU"),
    ]  # fmt: skip


def prompts(given: Assumptions) -> list[Line]:
    """Keys and values of prompts, kept between requests."""
    crowd = Crowd(given)
    one, sessions = crowd.count.cache_bytes(crowd.prompt), crowd.peak() * given.prompt_minutes * 60
    fewer = min(sessions, given.users * given.active_share)
    anew = given.pace.seconds([crowd.count.reading(given.serving_batch, crowd.prompt)])
    return [
        Line("a token", crowd.count.cache_bytes(1), "B", "2 x layers x key heads x size of a head x bytes of a number"),
        Line("a user", one, "B", "prompt x bytes of a token"),
        Line("users within prompt_minutes at peak", fewer, "", "peak requests x prompt_minutes, or all active ones"),
        Line("kept for them", fewer * one, "B", "users x bytes of a user"),
        Line("kept for everybody", given.users * one, "B", "users x bytes of a user"),
        Line("fetching one", one / given.network_bytes_per_s * 1e3, "ms", "bytes of a user / network_bytes_per_s"),
        Line("reading one anew", anew / given.serving_batch * 1e3, "ms", "roofline of reading, of one user of a batch"),
    ]


def network(given: Assumptions) -> list[Line]:
    """What goes over wires."""
    crowd = Crowd(given)
    asked = given.request_overhead_bytes + given.history * ID_BYTES + given.list_length * (ID_BYTES + FLOAT_BYTES)
    trie = trie_bytes(given.items, given.size, given.levels)
    shards = ceil(trie / crowd.room)
    merged = 0 if shards == 1 else shards * given.levels * given.beams * BEAM_BYTES
    events = given.users * given.active_share * given.events_per_day * 2 * ID_BYTES
    return [
        Line("a request and its answer", asked, "B", "request_overhead_bytes + history x 8 + list_length x 12"),
        Line("at peak", asked * crowd.peak(), "B/s", "x peak requests"),
        Line("events a day", events, "B", "users x active_share x events_per_day x 16"),
        Line("shards the trie needs", shards, "", "trie / (memory x memory_share - weights)"),
        Line("between shards, a request", merged, "B", "shards x levels x beams x 10, if there are several"),
        Line("weights to one GPU's machine", crowd.weights_bytes / given.network_bytes_per_s, "s",
             "bytes of weights / network_bytes_per_s"),
        Line("trie to it", trie / given.network_bytes_per_s, "s", "bytes of the trie / network_bytes_per_s"),
    ]  # fmt: skip


def cadence(given: Assumptions) -> list[Line]:
    """What is done anew, and how often."""
    crowd = Crowd(given)
    once, days = given.users * crowd.thinking_seconds(), given.model_days
    return [
        Line("thoughts are at most this old, for who has new events", given.refresh_days, "days", "refresh_days"),
        Line("a new model thinks for everybody", once / HOUR, "GPU h", "users x time of a user"),
        Line("GPUs for that, over half of model_days", once / DAY / (days / 2) / given.busy_share, "GPUs",
             "GPU h / 24 / (model_days / 2) / busy_share"),
        Line("new items before the next trie", given.new_items_share * given.items, "",
             "new_items_share x items; reachable once named and in a trie"),
        Line("a trie takes", TRIE_S * given.items, "s", "items x 3e-7 s"),
    ]  # fmt: skip
