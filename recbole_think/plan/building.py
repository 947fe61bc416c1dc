"""The first half of a plan: the catalogue and its codes, and teaching the model.

Takes assumptions, gives lines. Formulas are in the docstrings and, in words of the assumptions, beside every number.
n items, L levels of ``size`` codes, P parameters.
"""

from math import expm1, log1p

from recbole_think.plan.assumptions import Assumptions
from recbole_think.plan.backbones import Backbone
from recbole_think.plan.costs import Inference, Step, learning_flops
from recbole_think.plan.lines import Line

HOUR = 3600.0
CODE_BYTES, PLACE_BYTES, FLOAT_BYTES = 2, 4, 4  # int16, int32, float32
ID_BYTES = 8
TEXT_BYTES = 4  # of a token, about
PAIR_BYTES = 12  # a count and where it stands in a sparse matrix
TRIE_S = 3e-7  # of building the trie, an item: three million on one core with AVX2 (docs/scale.md)
TOGETHER = 64  # prompts of a step of reinforcement learning (our default)
LEARNING_BYTES = 16  # float32 weight, gradient and two moments of AdamW
WORKING_BYTES = 2  # bfloat16 copy that is multiplied
RESERVED = 34, 5  # bytes a token and layer keeps for the backward pass: 34 d + 5 H row (Korthikanti et al. 2022)


def trie_nodes(items: int, size: int, levels: int) -> list[float]:
    """Nodes of every level, the root first.

    Of m = size^depth prefixes m (1 - (1 - 1/m)^n) are used, if codes are even.
    """
    nodes = [1.0]
    for depth in range(1, levels):
        prefixes = float(size) ** depth
        nodes.append(-prefixes * expm1(items * log1p(-1 / prefixes)))
    return [*nodes, float(items)]


def trie_bytes(items: int, size: int, levels: int) -> float:
    """Bytes of ``decoding/trie.py``: 8 n for the order of items, 2 a node for its code, 4 an inner node besides."""
    nodes = trie_nodes(items, size, levels)
    code = CODE_BYTES if size <= 2**15 else PLACE_BYTES
    children = sum(PLACE_BYTES * (inner + 1) for inner in nodes[:-1])
    return 2 * PLACE_BYTES * items + code * sum(nodes[1:]) + children


def naming(items: int, vector_size: int, size: int, levels: int) -> tuple[float, float]:
    """Operations of finding the nearest centres of n items, 2 n d size L, and bytes of their vectors, 4 n d."""
    return 2.0 * items * vector_size * size * levels, float(FLOAT_BYTES) * items * vector_size


def reserved_bytes(model: Backbone, tokens: float, row_tokens: float) -> float:
    """Bytes kept for the backward pass when layers are computed again: 2 d a layer, and one layer's 34 d + 5 H row."""
    wide, square = RESERVED
    again = wide * model.hidden_size + square * model.num_attention_heads * row_tokens
    return tokens * (WORKING_BYTES * model.hidden_size * model.num_hidden_layers + again)


def catalogue(given: Assumptions) -> list[Line]:
    """Codes, trie, rows of itemic tokens, texts, vectors."""
    n, trie = given.items, trie_bytes(given.items, given.size, given.levels)
    rows = given.levels * given.size
    return [
        Line("codes there are, for one item", float(given.size) ** given.levels / n, "", "size^levels / items"),
        Line("table of codes", float(CODE_BYTES * n * given.levels), "B", "items x levels x 2 (int16)"),
        Line(
            "trie",
            trie,
            "B",
            "8 items + 2 nodes + 4 inner nodes; nodes of a level: m (1 - (1 - 1/m)^items), m = size^depth",
        ),
        Line("trie, of an item", trie / n, "B", "trie / items"),
        Line("rebuilding the trie, one core", TRIE_S * n, "s", "items x 3e-7 s (docs/scale.md)"),
        Line(
            "rows of itemic tokens",
            float(FLOAT_BYTES * rows * given.model.hidden_size),
            "B",
            "levels x size x hidden size x 4",
        ),
        Line("texts", float(TEXT_BYTES * n * given.text_tokens), "B", "items x text_tokens x 4"),
        Line("histories", float(ID_BYTES) * given.users * given.history, "B", "users x history x 8"),
        Line("item vectors", float(FLOAT_BYTES * n * given.vector_size), "B", "items x vector_size x 4"),
    ]


def codes(given: Assumptions) -> list[Line]:
    """Encoding, fitting, naming."""
    rate = given.pace.flops_per_s
    encode = 2 * given.encoder_parameters * given.text_tokens * given.items
    fitted = min(given.fit_items, given.items)
    fit = given.fit_passes * naming(fitted, given.vector_size, given.size, given.levels)[0]
    name, moved = naming(given.items, given.vector_size, given.size, given.levels)
    name_s = given.pace.seconds([Step(name, moved)])
    new = given.new_items_share
    return [
        Line("encoding texts", encode, "FLOP", "2 x encoder_parameters x text_tokens x items"),
        Line("encoding texts, time", encode / rate / HOUR, "GPU h", "FLOP / (device FLOP/s x flops_share)"),
        Line("co-occurrence pairs before they are summed", 2.0 * PAIR_BYTES * given.users * given.history * 2, "B",
             "users x history x window of 2 x both ways x 12"),
        Line("fitting centres", fit, "FLOP", "fit_passes x 2 x fit_items x vector_size x size x levels"),
        Line("fitting centres, time", fit / rate / HOUR, "GPU h", "FLOP / rate"),
        Line("naming all items", name, "FLOP", "2 x items x vector_size x size x levels"),
        Line("streamed once for naming", moved, "B", "items x vector_size x 4"),
        Line("naming all items, time", name_s / HOUR, "GPU h", "max(FLOP / rate, bytes / bandwidth)"),
        Line("of new items, a day", new * (encode / rate + name_s) / HOUR, "GPU h", "new_items_share x both"),
    ]  # fmt: skip


def learning_memory(given: Assumptions) -> list[Line]:
    """What a GPU holds while the model learns."""
    model, gpus = given.model, given.training_gpus
    sent = 2.0 * FLOAT_BYTES * model.parameters * (gpus - 1) / gpus
    learnt = learning_flops(model, given.batch_tokens, given.row_tokens, model.vocab_size) / given.pace.flops_per_s
    state = float(LEARNING_BYTES * model.parameters)
    kept = reserved_bytes(model, given.batch_tokens, given.row_tokens)
    copy = float(WORKING_BYTES * model.parameters)
    return [
        Line("parameters", model.parameters, "", "layers x (2 d H h + 2 d J h + 3 d f) + words x d"),
        Line("weights, gradients, AdamW", state, "B", "16 x parameters (docs/backbones.md)"),
        Line("the same, in shards", state / gpus, "B", "16 x parameters / training_gpus (fsdp2)"),
        Line("copy that is multiplied", copy, "B", "2 x parameters"),
        Line("activations, layers computed again", kept, "B",
             "batch_tokens x (2 d layers + 34 d + 5 H row_tokens) (Korthikanti et al. 2022)"),
        Line("in all, not in shards", state + copy + kept, "B", "sum"),
        Line("gradients a GPU sends a step", sent, "B", "2 x 4 x parameters x (gpus - 1) / gpus (ring all-reduce)"),
        Line("sending them", sent / given.network_bytes_per_s, "s", "bytes / network_bytes_per_s, between machines"),
        Line("learning from batch_tokens", learnt, "s", "batch_tokens x (6 (W + d words) + 6 L H h row_tokens) / rate"),
    ]  # fmt: skip


def stage_flops(given: Assumptions) -> dict[str, tuple[float, float, str]]:
    """Tokens and operations of every supervised stage, and how its tokens were counted."""
    model, item = given.model, given.levels
    explained = given.users * given.explained_share
    tokens = {
        "token warm-up": (given.warmup_tokens, model.vocab_size, "warmup_tokens"),
        "multi-task integration": (given.items * (item + given.text_tokens) / given.caption_share, model.vocab_size,
                                   "items x (levels + text_tokens) / caption_share"),
        "recommendation": (given.epochs * given.users * given.history * item, given.size,
                           "epochs x users x history x levels"),
        "activation": (explained * (given.history * item + given.rationales_each * (given.thought_tokens + item)),
                       model.vocab_size,
                       "users x explained_share x (history x levels + rationales_each x (thought_tokens + levels))"),
    }  # fmt: skip
    return {
        stage: (count, learning_flops(model, count, given.row_tokens, rows), how)
        for stage, (count, rows, how) in tokens.items()
    }


def enhancement_seconds(given: Assumptions) -> float:
    """GPU seconds of reinforcement learning: rationales and beams by the roofline, learning at the rate of products.

    A prompt and its rationales are read once forward and back, and once forward by the reference: 8/6 of learning.
    """
    model, pace = given.model, given.pace
    count, users = Inference(model, given.device.number_bytes), TOGETHER
    prompt, said = given.frame_tokens + given.history * given.levels, given.thought_tokens + 1
    steps = count.sampling(users, prompt, given.rationales, said, model.vocab_size)
    kept = prompt + given.rationales * said
    steps += count.searching(
        users, given.rationales, given.reward_beams, prompt + said, kept, [given.size] * given.levels
    )
    learnt = 8 / 6 * learning_flops(model, kept, prompt + said, model.vocab_size)
    return given.enhancement_prompts * (pace.seconds(steps) / users + learnt / pace.flops_per_s)


def learning(given: Assumptions) -> list[Line]:
    """Tokens and GPU hours of every stage."""
    rate, lines, total = given.pace.flops_per_s, [], 0.0
    for stage, (tokens, flops, how) in stage_flops(given).items():
        hours = flops / rate / HOUR
        total += hours
        lines.append(Line(f"{stage}, tokens", tokens, "", how))
        lines.append(Line(f"{stage}, time", hours, "GPU h", "tokens x (6 (W + d head) + 6 L H h row_tokens) / rate"))
    hours = enhancement_seconds(given) / HOUR
    lines.append(
        Line(
            "enhancement, time",
            hours,
            "GPU h",
            "enhancement_prompts x (rationales and beams by the roofline + 8/6 of learning them)",
        )
    )
    lines.append(Line("all stages", total + hours, "GPU h", "sum"))
    days = (total + hours) / given.training_gpus / 24 / given.busy_share
    lines.append(Line("all stages, on training_gpus", days, "days", "GPU h / training_gpus / 24 / busy_share"))
    return lines
