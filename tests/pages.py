"""A finished run folder made by hand, and a report taken apart as a browser's parser would."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from recbole_think.corpus.items import ItemText
from recbole_think.itemic.codes import Codes, health
from recbole_think.itemic.map import write_map
from recbole_think.report import write_report

EVIL = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{7*7}}<a href='javascript:alert(3)'>x</a>"
)
TABLE = np.stack(np.unravel_index(np.arange(12), (4, 4)), axis=1)


def metrics(word: str = "Film", **more) -> dict:
    """The record of a small finished run, all of its words given."""
    pair = {"recall@5": 0.25, "ndcg@5": 0.2, "recall@10": 0.5, "ndcg@10": 0.375}
    return {
        "model": f"Model {word}", "dataset": f"data {word}", "seed": 1, "mask_history": True, "test": pair,
        "standard_error": {name: 0.0123 for name in pair}, "test_other_masking": {n: v / 2 for n, v in pair.items()},
        "standard_error_other_masking": {name: float("nan") for name in pair}, "users": 8, "illegal_rate": 0.0,
        "repeated_target_share": 0.125, "seconds": {"fit": 61.0, f"data {word}": 2.0}, "peak_memory_mib": 10.0,
        "stages": [
            {"stage": "warmup", "seconds": 2.0, "tokens": 50, "steps": 2, "loss": 3.5, "best_score": 0.1},
            {"stage": "silent", "seconds": 0.0, "tokens": 0, "steps": 0, "loss": float("nan"), "best_score": 0.1},
        ],
        "parameters": 12345, "train_tokens": 50, "command": f"python x --a='{word}'", "commit": "abc",
        "data_fingerprint": "f", "versions": {"torch": word}, "finished": "2026-11-22 02:00:00",
        "hardware": {"cpu": word, "cores": 2, "threads": 1, "instructions": "AMX bf16", "gpus": []},
        "samples": [
            {"user": f"u {word}", "history": [word], "recommended": [f"A {word}", word], "target": word, "rank": 2},
            {"user": "v", "history": ["a", "b"], "recommended": ["Same", "Same"], "target": "Same", "rank": 2},
            {"user": "w", "history": ["a"], "recommended": ["x"], "target": "y", "rank": 0},
            {"user": "far", "history": ["a"], "recommended": ["x"], "target": "z", "rank": 15},
        ],
        **more,
    }  # fmt: skip


def finished(folder: Path, word: str = "Film", **more) -> Path:
    """A run folder made by hand, with everything a report can show."""
    (folder / "warmup").mkdir(parents=True)
    (folder / "pop").mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics(word, **more)))
    (folder / "pop" / "metrics.json").write_text(json.dumps(metrics(word, model="Pop", stages=[], samples=[])))
    lines = [f"u{n}{word}\t{(1, 0, 3, 0, 2, 20, 0, 5)[n]}\t0\t{n + 2}\t{9 - n}" for n in range(8)]
    text = "\n".join(["user_id\trank\trank_other_masking\thistory_length\ttarget_count", *lines, ""])
    (folder / "ranks.tsv").write_text(text)
    curve = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0}, {"step": 2, "valid": 0.1}, {"step": 2, word: 1.5}]
    (folder / "warmup" / "log.json").write_text(json.dumps({"curve": curve}))
    items = [ItemText(f"{word} {row}", {"genre": f"{word} kind {row % 2}"}) for row in range(len(TABLE))]
    write_map(folder / "itemic" / "map.tsv", np.random.default_rng(0).normal(size=(12, 3)), items, seed=0)
    codes = Codes(TABLE, (4, 4))
    codes.save(folder / "itemic" / "codes.safetensors")
    figures = health(codes, TABLE, [item.category for item in items])
    (folder / "itemic" / "facts.json").write_text(json.dumps({"health": figures}))
    return folder


class Page(HTMLParser):
    """What a browser's parser makes of a report."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem:
            self.scripts[-1] += data
        elif not self.cdata_elem:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def sections(self) -> list[str]:
        return [facts["id"] for tag, facts in self.tags if tag == "section"]

    @property
    def charts(self) -> dict:
        def refuse(word):
            raise AssertionError(f"{word} is no JSON")

        [data] = [script for script in self.scripts if script.startswith("{")]
        return json.loads(data, parse_constant=refuse)["charts"]


def read(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))
