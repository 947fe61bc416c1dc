"""What a vLLM engine is asked, and what of its answers can be proved; used by vllm_check.py."""

import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import chisquare
from vllm_server import UP_S, VllmServer

from recbole_think import shards
from recbole_think.answering import Own, Stepwise
from recbole_think.decoding.engine import Speech
from recbole_think.decoding.sampling import SampleOptions
from recbole_think.decoding.server import Server
from recbole_think.errors import InputError
from recbole_think.prompts.thinking import thought_prompt
from recbole_think.shards import Keep, ranked_ahead

BEAMS, TEN = 20, 10
NEAR = 1e-3  # nats: scores closer than this may change places between two ways of computing them
DRAWS = 400  # thoughts of one prompt, whose first words are counted
FEW, FEW_TOKENS = 16, 640  # users of a shard and tokens of a batch, so that a few dozen users make several shards


class Checks:
    """What is asked of a server that holds the small run's model."""

    def __init__(self, run: Any, users: int):
        self.run, self.ranker = run, run.model.ranker
        loader, histories = run.splits["test"]
        self.asked = run.model.asked(loader.collate_fn(list(range(users)))[0])
        run.model.item_mask = histories
        cells = run.model.mask_of(self.asked.users)
        self.mask = torch.zeros(cells.shape, dtype=torch.bool)
        self.mask[cells.users, cells.items] = True
        self.prompts, self.loader = self.asked.prompts, loader
        self.direct = replace(run.model.options["decode"], think=False, num_beams=BEAMS)
        self.own = Own(self.ranker, self.ranker.language_model)

    def items(self, server: Server, normalize: str) -> dict[str, Any]:
        """Lists without a thought, ours and the server's."""
        options = replace(self.direct, normalize=normalize)
        ours, ours_s = timed(lambda: self.own.beams(self.prompts, self.mask, BEAMS, options))
        theirs, theirs_s = timed(lambda: Stepwise(self.ranker, server).beams(self.prompts, self.mask, BEAMS, options))
        spelt = torch.from_numpy(self.ranker.codes.table)[theirs.items.clamp(min=0)]
        legal = (spelt == theirs.codes).all(2) & ~self.mask.gather(1, theirs.items.clamp(min=0))
        apart = float((ours.scores - theirs.scores).abs().max())
        pairs = list(zip(ours.items.tolist(), theirs.items.tolist(), strict=True))
        return {
            "normalize": normalize, "legal": float(legal.float().mean()), "scores_apart": apart,
            "identical_lists": statistics.mean(one == other for one, other in pairs),
            "identical_but_for_near_ties": statistics.mean(
                near(row, one, other) for row, (one, other) in zip(ours.scores.tolist(), pairs, strict=True)
            ),
            "overlap": statistics.mean(len(set(one[:TEN]) & set(other[:TEN])) / TEN for one, other in pairs),
            "seconds": {"own": ours_s, "server": theirs_s}, "lists": theirs.items.tolist(),
        }  # fmt: skip

    def thoughts(self, server: Any) -> dict[str, Any]:
        """Whether thoughts are made of what may be said, and drawn from the model's own distribution."""
        vocabulary, how = self.ranker.vocabulary, self.run.model.options["decode"].sampling
        speech = Speech(self.ranker.words, vocabulary.marks[1], len(vocabulary.tokenizer))
        begun = [thought_prompt(prompt, vocabulary).tolist() for prompt in self.prompts]
        said, seconds = timed(lambda: server.say(begun, how, speech, range(len(begun))))
        every = [one for of in said for one in of]
        words = set(self.ranker.words.tolist()) - {speech.stop}
        again = server.say(begun[3:4], how, speech, [3])
        return {
            "thoughts": len(every), "seconds": seconds,
            "of_words_alone": statistics.mean(set(one.ids) <= words for one in every),
            "closed": statistics.mean(one.closed for one in every),
            "tokens": statistics.mean(len(one.ids) for one in every),
            "distinct": len({tuple(one.ids) for one in every}) / len(every),
            "same_again_alone": again == said[3:4],
            "first_word_p": self._first_words(server, begun[0], speech),
        }  # fmt: skip

    def _first_words(self, server: Any, prompt: list[int], speech: Speech) -> float:
        """p-value of the first words of many thoughts against what the model says of them."""
        drawn = server.say([prompt], SampleOptions(DRAWS, 2), speech, [17])[0]
        words = self.ranker.words
        with torch.no_grad():
            logits = self.ranker.language_model(torch.tensor([prompt])).logits[0, -1].float()[words]
        wanted = logits.softmax(0).double().numpy() * DRAWS
        place = {token: at for at, token in enumerate(words.tolist())}
        found = np.zeros(len(words))
        for one in drawn:
            found[place[one.ids[0] if one.ids else speech.stop]] += 1
        rare = wanted < 5  # chi-square wants five of each: the rare ones count together
        joined = [np.append(side[~rare], side[rare].sum()) for side in (found, wanted)]
        return float(chisquare(*(side[joined[1] > 0] for side in joined)).pvalue)

    def thinking(self, engine: Any, name: str) -> dict[str, Any]:
        """Lists after thinking: the engine's and this process's own."""
        options = self.run.model.options["decode"]
        self.ranker.engine = engine
        found = {}
        for who in (name, "transformers"):
            ask = replace(options, engine=who)
            ranked = partial(self.ranker.rank, self.prompts, self._mask_of, ask, torch.float32)
            lists, seconds = timed(ranked)
            hits = [target in row[:TEN] for row, target in zip(lists, self._targets(), strict=True)]
            found[who] = {"seconds": seconds, "recall@10": statistics.mean(hits), "shortest": min(map(len, lists)),
                          "illegal_rate": self.ranker.take_illegal_rate()}  # fmt: skip
        return found

    def _mask_of(self, rows: list[int]) -> torch.Tensor:
        return self.mask[rows]

    def _targets(self) -> list[int]:
        column = self.loader.dataset.inter_feat[self.loader.dataset.iid_field]
        return column[: len(self.prompts)].tolist()

    def killed(self, process: VllmServer, server: Server, wanted: list[list[int]], usual: float) -> dict[str, Any]:
        """The server is killed in the middle of a question and comes back: the answer is the same."""
        count = Counted()
        logging.getLogger("recbole_think.decoding.server").addHandler(count)
        patient = replace(server, options=replace(server.options, patience_s=float(UP_S)))
        lists: list[list[int]] = []
        asking = threading.Thread(target=lambda: lists.extend(
            Stepwise(self.ranker, patient).beams(self.prompts, self.mask, BEAMS, self.direct).items.tolist()
        ))  # fmt: skip
        asking.start()
        time.sleep(usual / 2)
        in_the_middle = asking.is_alive()
        process.kill()
        process.start()
        asking.join()
        return {"in_the_middle": in_the_middle, "asked_again": count.lines, "same_lists": lists == wanted}

    def gone(self, process: VllmServer, server: Server) -> dict[str, Any]:
        """The server is killed and stays away: a clear error, and what was ranked before is kept."""
        shards.SHARD_USERS = FEW
        model, rows = self.run.model, range(len(self.prompts))
        model.options["decode"] = replace(self.direct, engine="openai", tokens_per_batch=FEW_TOKENS)
        self.ranker.engine = replace(server, options=replace(server.options, patience_s=2.0))
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "shards"
            watching = threading.Thread(target=kill_when, args=(lambda: any(folder.glob("shard-*")), process))
            watching.start()
            why = ""
            try:
                with ranked_ahead(model, self.loader, Keep(folder, {}), rows=rows):
                    pass
            except InputError as error:
                why = str(error)
            watching.join()
            kept = len(list(folder.glob("shard-*")))
            process.start()
            self.ranker.engine = server
            self.ranker.take_illegal_rate()
            with ranked_ahead(model, self.loader, Keep(folder, {}), rows=rows):
                lists = [items for _, items in model.ready]
            shards_in_all = len(list(folder.glob("shard-*")))
        return {"error": why, "shards_kept": kept, "shards": shards_in_all, "lists": lists}


class Counted(logging.Handler):
    """Counts what is logged."""

    lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        self.lines += 1


def kill_when(happened: Callable[[], bool], process: VllmServer) -> None:
    """Kill the server once something has happened."""
    while not happened():
        time.sleep(0.05)
    process.kill()


def near(scores: list[float], one: list[int], other: list[int]) -> bool:
    """Whether two lists are the same but for places whose scores are nearly the same."""
    at = {item: score for item, score in zip(one, scores, strict=True)}
    worst = min(scores)
    return all(abs(at[a] - at.get(b, worst)) < NEAR for a, b in zip(one, other, strict=True))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` gives, and its seconds."""
    begin = time.perf_counter()
    found = work()
    return found, round(time.perf_counter() - begin, 2)
