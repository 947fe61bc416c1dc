"""How well itemic tokens and words understand one another, measured on items never described in training.

Captioning: the described item's own text is nearer to the caption (sentence-encoder cosine) than a random item's, and
the caption names its category. Retrieval: from its description, beam search finds the item. Paper: Table 4 compares
warm-up with warm-up and multi-task integration, by a metric of its own.
n judged items.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from recbole_think.corpus.items import ItemText
from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.trie import SidTrie
from recbole_think.prompts.alignment import caption_frame, caption_prompt, search_prompt
from recbole_think.prompts.batching import prompt_batch
from recbole_think.prompts.material import Material

FOUND_WITHIN = 10
SHOWN = 5  # captions kept to be read
TOGETHER = 64  # items described side by side


def judge(model: Any, material: Material, trie: SidTrie, encode: Callable[[list[str]], np.ndarray]) -> dict[str, Any]:
    """Describe and look for held-out items.

    Args:
        model: the language model.
        material: what is held out.
        trie: the catalogue.
        encode: n texts -> float32 [n, d] sentence vectors.

    Returns:
        Shares and cosines with their number of items, and some captions beside the true text; empty if
        ``alignment.judged_items`` is 0.
    """
    judged = sorted(material.held_items)[: material.options.judged_items]
    if not judged:
        return {}
    items = [material.items[item - 1] for item in judged]
    others = _others(material, judged)
    captions = describe(model, material, judged)
    found = search(model, material, trie, judged)
    texts = [*captions, *(item.text for item in items), *(item.text for item in others)]
    said, true, random = np.split(_unit(encode(texts)), 3)
    return {
        "items": len(judged),
        "similarity": _mean((said * true).sum(1)),
        "similarity_random_item": _mean((said * random).sum(1)),
        "category": _mean([_names_category(caption, item) for caption, item in zip(captions, items, strict=True)]),
        "category_random_item": _mean([_names_category(c, item) for c, item in zip(captions, others, strict=True)]),
        f"retrieval_hit@{FOUND_WITHIN}": _mean(found),
        f"retrieval_chance@{FOUND_WITHIN}": min(1.0, FOUND_WITHIN / trie.n),
        "captions": [
            {"title": item.title, "text": item.text, "caption": caption}
            for item, caption in list(zip(items, captions, strict=True))[:SHOWN]
        ],
    }


def describe(model: Any, material: Material, items: list[int]) -> list[str]:
    """Say in words, greedily, what the itemic tokens of some RecBole items stand for."""
    vocabulary, frame = material.vocabulary, caption_frame(material.vocabulary.tokenizer)
    prompts = [caption_prompt(frame, vocabulary, item) for item in items]
    codes = [int(token) for level in vocabulary.code_tokens for token in level]
    device, said = next(model.parameters()).device, []
    for begin in range(0, len(prompts), TOGETHER):
        ids, mask = prompt_batch(prompts[begin : begin + TOGETHER], vocabulary.tokenizer.pad_token_id)
        out = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=material.options.description_tokens,
            suppress_tokens=codes,
        )
        said += vocabulary.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return said


def search(model: Any, material: Material, trie: SidTrie, items: list[int]) -> list[bool]:
    """Tell of each RecBole item whether it is among the first ten named after its description."""
    vocabulary = material.vocabulary
    hits = []
    for item in items:
        prompt = search_prompt(vocabulary, material.items[item - 1])
        ids, mask = prompt_batch([prompt], vocabulary.tokenizer.pad_token_id)
        found = beam_search(model, ids, mask, trie, vocabulary.code_tokens, min(FOUND_WITHIN, trie.n), "level")
        hits.append(bool((found.items[0] == item - 1).any()))
    return hits


def _others(material: Material, judged: list[int]) -> list[ItemText]:
    """For each judged item another one of the catalogue, drawn by seed."""
    generator = np.random.default_rng([material.seed, 5000])
    n = len(material.items)
    return [material.items[(item - 1 + int(generator.integers(1, max(2, n)))) % n] for item in judged]


def _names_category(caption: str, item: ItemText) -> bool:
    return bool(item.category) and str(item.category).lower() in caption.lower()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _mean(values) -> float:
    return round(float(np.mean(values)), 4)
