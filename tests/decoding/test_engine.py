"""Engines: lists by a server are those of this process, thoughts keep to what may be said, bad servers are refused."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.engine import NEVER, EngineOptions, Speech, spoken
from recbole_think.decoding.probe import Probe
from recbole_think.decoding.sampling import SampleOptions
from recbole_think.decoding.server import connected
from recbole_think.decoding.stepwise import stepwise_search
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.prompts.batching import prompt_batch
from tests.server import Pretender, serving
from tests.small import WORDS, distinct_codes, plain_qwen, tokens_of_levels

SIZES, N = (4, 4, 4), 20
TOKENS = tokens_of_levels(SIZES)
FIRST = TOKENS[0].tolist()
PROMPTS = [np.random.default_rng(0).integers(1, WORDS, length) for length in (7, 2, 5)]
STOP = 3
WAITING = SampleOptions(samples=3, max_tokens=6)


@pytest.fixture
def pretender():
    return Pretender(plain_qwen(WORDS + sum(SIZES)))


@pytest.fixture
def server(pretender):
    with serving(pretender) as url:
        yield connected(EngineOptions(url=url, patience_s=0.0, rows=4, workers=2))


def patient(server, seconds=30.0):
    return replace(server, options=replace(server.options, patience_s=seconds))


def catalogue():
    return SidTrie(torch.from_numpy(distinct_codes(N, SIZES)))


@torch.no_grad()
def known(pretender):
    own = pretender.model(torch.tensor([[1, 2]])).logits[0, -1, TOKENS[0]].log_softmax(0).numpy()
    return Probe([1, 2], FIRST, own)


@pytest.mark.parametrize("normalize", ["level", "valid"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_server_gives_the_lists_of_this_process(server, pretender, normalize, masked):
    trie = catalogue()
    mask = torch.rand(len(PROMPTS), N, generator=torch.Generator().manual_seed(1)) < 0.4 if masked else None
    own = beam_search(pretender.model, *prompt_batch(PROMPTS, 0), trie, TOKENS, 6, normalize, item_mask=mask)
    theirs = stepwise_search(server, PROMPTS, trie, TOKENS, 6, normalize, mask)
    assert theirs.items.tolist() == own.items.tolist()
    torch.testing.assert_close(theirs.scores, own.scores, atol=1e-4, rtol=1e-4)
    assert theirs.codes.tolist() == own.codes.tolist()


def test_as_many_beams_as_items_name_every_item_once_whatever_is_asked_together(server):
    found = stepwise_search(server, PROMPTS, catalogue(), TOKENS, N, "level")
    assert all(sorted(row) == list(range(N)) for row in found.items.tolist())


def test_a_beginning_that_beams_share_is_asked_for_once(server, pretender):
    stepwise_search(server, [PROMPTS[0], PROMPTS[0]], catalogue(), TOKENS, 3, "level")
    asked = [tuple(prompt) for request in pretender.requests for prompt in request["prompt"]]
    assert len(asked) == len(set(asked))


def test_probabilities_among_words_are_not_to_be_had(server):
    with pytest.raises(InputError, match="compares codes with words"):
        stepwise_search(server, PROMPTS, catalogue(), TOKENS, 3, "vocab")


@pytest.mark.parametrize("words", [[STOP, 7, 9, 11], sorted({*range(WORDS)} - {4, 5})], ids=["few", "nearly all"])
def test_thoughts_are_made_of_what_may_be_said(server, words):
    speech = Speech(torch.tensor(words), STOP, WORDS + sum(SIZES))
    said = server.say([prompt.tolist() for prompt in PROMPTS], WAITING, speech, [1, 2, 3])
    assert [len(of) for of in said] == [3, 3, 3]
    for one in (one for of in said for one in of):
        assert set(one.ids) <= set(words) - {STOP} and len(one.ids) < WAITING.max_tokens
        assert one.closed or len(one.ids) == WAITING.max_tokens - 1
    assert len({tuple(one.ids) for of in said for one in of}) > 3, "they are drawn, not looked up"


def test_what_is_said_after_a_prompt_depends_on_no_other(server):
    speech = Speech(torch.arange(WORDS), STOP, WORDS + sum(SIZES))
    texts = [prompt.tolist() for prompt in PROMPTS]
    together = server.say(texts, WAITING, speech, [1, 2, 3])
    assert server.say(texts[1:2], WAITING, speech, [2]) == together[1:2]
    assert server.say(texts[1:2], WAITING, speech, [4]) != together[1:2]


def test_the_shorter_list_is_sent_of_what_may_and_what_may_not_be_said():
    assert Speech(torch.tensor([2, 5]), 5, 10).limits() == {"allowed_token_ids": [2, 5]}
    assert Speech(torch.tensor([0, 1, 2, 3, 5]), 5, 7).limits() == {"logit_bias": {"4": NEVER, "6": NEVER}}


def test_a_thought_is_cut_at_its_end_or_at_the_limit():
    how = SampleOptions(samples=1, max_tokens=4)
    assert spoken([8, 9, STOP], how, STOP).ids == [8, 9] and spoken([8, 9, STOP], how, STOP).closed
    assert spoken([8, 9, 8, 9], how, STOP).ids == [8, 9, 8] and not spoken([8, 9, 8, 9], how, STOP).closed
    assert spoken([STOP], how, STOP).ids == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"without": "logprobs"}, "gives no log-probabilities"),
        ({"raw": True}, "left out .* of 4 codes that were allowed and named"),
        ({"max_logprobs": 2}, "refuses: .*Requested sample logprobs of 4"),
    ],
)
def test_a_server_that_does_not_give_what_beams_need_is_refused(server, pretender, fault, said):
    for name, value in fault.items():
        setattr(pretender, name, value)
    with pytest.raises(InputError, match=said):
        server.believe(known(pretender))


def test_a_server_whose_probabilities_do_not_sum_to_one_is_refused(server, pretender):
    pretender.shift = -1.0
    with pytest.raises(InputError, match=r"they sum to 0.368 over a level.*--logprobs-mode processed_logprobs"):
        server.believe(known(pretender))


def test_the_model_of_another_catalogue_is_refused_and_the_same_one_in_bfloat16_is_not(server, pretender):
    probe = known(pretender)
    server.believe(probe)
    pretender.model = pretender.model.bfloat16()
    server.believe(probe)
    pretender.model = plain_qwen(WORDS + sum(SIZES), seed=5)
    with pytest.raises(InputError, match="is not that of this catalogue"):
        server.believe(probe)


def test_a_server_that_comes_back_with_another_model_is_refused(server, pretender, monkeypatch):
    monkeypatch.setattr("recbole_think.decoding.server.FIRST_WAIT_S", 0.01)
    asked = patient(server)
    asked.believe(known(pretender))
    pretender.model, pretender.away = plain_qwen(WORDS + sum(SIZES), seed=5), 1
    with pytest.raises(InputError, match="is not that of this catalogue"):
        asked.code_log_probs([[1, 2]], FIRST)


def test_a_server_that_was_not_asked_for_long_must_show_its_model_again(server, pretender, monkeypatch):
    server.believe(known(pretender))
    pretender.model = plain_qwen(WORDS + sum(SIZES), seed=5)
    monkeypatch.setattr("recbole_think.decoding.server.IDLE_S", 0.0)
    with pytest.raises(InputError, match="is not that of this catalogue"):
        server.say([[1, 2]], WAITING, Speech(torch.arange(WORDS), STOP, WORDS), [1])


def test_a_wrong_number_of_answers_is_refused_at_once(server, pretender):
    pretender.lost = 1
    with pytest.raises(InputError, match="gave 1 answers, 2 were asked for"):
        patient(server).code_log_probs([[1, 2], [2, 1]], FIRST)
    assert len(pretender.requests) == 1


def test_who_is_interrupted_does_not_wait_for_a_server_that_is_away(server, pretender):
    asked, pretender.away = patient(server, 3600.0), 10**6

    def interrupted(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            asked.code_log_probs([[1, 2]], FIRST)
    finally:
        signal.signal(signal.SIGALRM, before)
    asked.pool.shutdown(wait=True)  # hangs for an hour where threads go on asking


def test_a_server_that_is_away_for_a_moment_is_asked_again(server, pretender, monkeypatch):
    monkeypatch.setattr("recbole_think.decoding.server.FIRST_WAIT_S", 0.01)
    wanted = server.code_log_probs([[1, 2]], FIRST)
    pretender.away = 3
    assert (patient(server).code_log_probs([[1, 2]], FIRST) == wanted).all()


def test_a_server_that_answers_in_text_alone_is_refused(server, pretender):
    pretender.without = "token_ids"
    with pytest.raises(InputError, match="answers no token ids"):
        server.say([[1, 2]], WAITING, Speech(torch.arange(WORDS), STOP, WORDS), [1])


def test_a_server_that_stays_away_is_an_error_that_names_it(pretender):
    with serving(pretender) as url:
        gone = connected(EngineOptions(url=url, patience_s=0.0))
    with pytest.raises(InputError, match=f"the server at {url} has not answered for 0 s: Connection error"):
        gone.code_log_probs([[1, 2]], FIRST)
    with pytest.raises(InputError, match="has not answered for 0 s"):
        connected(EngineOptions(url=url, patience_s=0.0))


def test_one_of_several_models_is_named(pretender):
    pretender.names = ("small", "large")
    with serving(pretender) as url:
        assert connected(EngineOptions(url=url, model="large")).model == "large"
        with pytest.raises(InputError, match="has 2 models, name one"):
            connected(EngineOptions(url=url))
        with pytest.raises(InputError, match="has no model 'huge': it has small, large"):
            connected(EngineOptions(url=url, model="huge"))


@pytest.mark.parametrize("given", [{"rows": 0}, {"workers": 0}, {"patience_s": -1.0}, {"memory_share": 1.5}])
def test_options_out_of_range_are_refused(given):
    with pytest.raises(InputError, match=f"engine.{next(iter(given))} must"):
        EngineOptions(**given)
