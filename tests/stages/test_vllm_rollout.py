import inspect
from unittest import mock

import pytest
import torch
from trl.generation.vllm_generation import VLLMGeneration

from recbole_think.stages import grpo
from recbole_think.stages.scored import scored_words
from recbole_think.stages.vllm_rollout import VllmRollout, told_apart
from tests.small import plain_qwen
from tests.stages.test_enhancement import activated_thinker, curve_of
from tests.stand_in import StandIn, standing_in


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_stand_in_is_asked_as_trls_engine_is():
    for name in ("sync_weights", "generate"):
        assert inspect.signature(getattr(StandIn, name)).parameters.keys() == (
            inspect.signature(getattr(VLLMGeneration, name)).parameters.keys()
        )


def test_rationales_an_engine_draws_are_learnt_from_as_ours_are(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    before = made.share_answered_red()
    with standing_in() as engines:
        outcome = made.enhancement(vllm="colocated", learning_rate=4e-3).run(made.context)
    made.context.model.eval()
    assert 0.3 < before < 0.7 and made.share_answered_red() > 0.9
    assert curve_of(outcome, "engine_ratio") == pytest.approx([1.0] * 12, abs=1e-3), "sent anew before every step"
    assert max(curve_of(outcome, "engine_difference")) < 1e-4
    [engine] = engines
    assert engine.sent == 12 and engine.given["mode"] == "colocate"


def test_an_engine_that_was_not_sent_the_weights_is_told_by_its_ratio(tmp_path, activated):
    class Stale(StandIn):
        def sync_weights(self):
            pass

    made = activated_thinker(tmp_path, activated)
    with standing_in(Stale):
        outcome = made.enhancement(vllm="colocated", learning_rate=4e-3).run(made.context)
    differences = curve_of(outcome, "engine_difference")
    assert differences[0] < 1e-4 and differences[-1] > 0.05


def test_an_engine_says_the_words_of_a_thought_alone_and_stops_where_it_is_closed(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    with standing_in() as engines:
        made.enhancement(vllm="colocated", steps=1).run(made.context)
    [engine] = engines
    how, vocabulary = engine.given["generation_kwargs"], made.ranker.vocabulary
    spelt = engine.tokenizer.convert_ids_to_tokens
    assert spelt(how["allowed_token_ids"]) == vocabulary.tokenizer.convert_ids_to_tokens(made.ranker.words.tolist())
    assert spelt(how["stop_token_ids"]) == [vocabulary.tokenizer.convert_ids_to_tokens(vocabulary.marks[1])]
    assert engine.given["max_completion_length"] == 5 and engine.given["temperature"] == 1.0
    assert len(engine.asked) == 8 * 8 and engine.given["max_model_length"] == max(map(len, engine.asked)) + 5


def test_the_same_rationales_lead_to_the_same_beams_and_rewards(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    with mock.patch.object(grpo.RewardTrainer, "learn", side_effect=StopIteration, autospec=True) as learn:
        with pytest.raises(StopIteration):
            made.enhancement(steps=1, temperature=3.0).run(made.context)
    [trainer, _], _ = learn.call_args
    ours, policy = trainer.rollout_func, trainer.learner.whole.eval()

    class Trainer:
        class state:
            global_step = 0

        class vllm_generation:
            @staticmethod
            def generate(prompts, images, num_generations):
                assert prompts == found["prompt_ids"] and num_generations == 8
                said = [
                    ids if mask[-1] else [*ids[:-1], ids[0]]  # an engine does not close what it did not end
                    for ids, mask in zip(found["completion_ids"], found["env_mask"], strict=True)
                ]
                return prompts, said, [[[value] for value in of] for of in found["logprobs"]], None

    found = ours.follow(policy, range(8), Trainer)
    engine = VllmRollout(
        ours.vocabulary, ours.codes, ours.trie, ours.dialect, ours.words, ours.asked, ours.sampling, ours.beams,
        ours.normalize, ours.seed, ours.dtype,
    )  # fmt: skip
    theirs = engine.follow(policy, range(8), Trainer)
    assert len({one.closed for one in found["led"]}) == 2, "some are closed at the limit"
    for name in ("prompt_ids", "completion_ids", "env_mask"):
        assert theirs[name] == found[name], name
    for one, other in zip(found["led"], theirs["led"], strict=True):
        assert one.items.tolist() == other.items.tolist() and one.target == other.target
        assert (one.tokens, one.closed) == (other.tokens, other.closed)
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-5)


def test_what_did_not_end_by_itself_is_closed_at_the_limit_and_was_not_drawn():
    said, log_probs = [[3, 9], [3, 4, 5], [9]], [[[-1.0], [-2.0]], [[-1.0], [None], [-3.0]], [[-0.5]]]
    tokens, lengths, closed, likely = told_apart(said, log_probs, stop=9, longest=3)
    assert tokens.tolist() == [[3, 9, 9], [3, 4, 9], [9, 9, 9]] and lengths.tolist() == [2, 3, 1]
    assert closed.tolist() == [True, False, True]
    assert likely[0].tolist() == [-1.0, -2.0, 0.0] and likely[2].tolist() == [-0.5, 0.0, 0.0]
    assert likely[1, 0] == -1 and likely[1, 1].isnan() and likely[1, 2] == 0


@torch.no_grad()
def test_a_policy_is_scored_out_of_the_words_it_was_drawn_from():
    model, words = plain_qwen(40), torch.tensor([3, 8, 21, 30])
    prompts, said = [[5, 6, 7], [9, 11]], [[3, 21], [30]]
    ids, mask = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.int64)
    for row, (prompt, told) in enumerate(zip(prompts, said, strict=True)):
        there = slice(3 - len(prompt), 3 + len(told))
        ids[row, there], mask[row, there] = torch.tensor([*prompt, *told]), 1
    log_probs, entropy = scored_words(model, ids, mask, 2, words, 0.7, model.get_output_embeddings())
    for row, (prompt, told) in enumerate(zip(prompts, said, strict=True)):
        for place, token in enumerate(told):
            logits = model(torch.tensor([[*prompt, *told[:place]]])).logits[0, -1, words] / 0.7
            wanted = logits.log_softmax(0)
            assert log_probs[row, place] == pytest.approx(float(wanted[words.tolist().index(token)]), abs=1e-4)
            assert entropy[row, place] == pytest.approx(float(-(wanted.exp() * wanted).sum()), abs=1e-4)
    assert log_probs[1, 1] == 0
