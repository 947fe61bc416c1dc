import numpy as np
import pytest
import torch

from recbole_think.corpus.histories import from_pairs
from recbole_think.corpus.items import ItemText
from recbole_think.errors import InputError
from recbole_think.prompts.filters import Filter
from recbole_think.prompts.rationale import Case, Group
from recbole_think.prompts.thinking import all_words
from recbole_think.stages.activation import Activation
from recbole_think.stages.activation_options import ActivationOptions
from recbole_think.stages.answers import Answers
from recbole_think.stages.cases import Means
from recbole_think.stages.sources import Category, Own
from recbole_think.stages.stage import Context, run_stages
from tests.small import distinct_codes, taught

N, SIZES = 8, (4, 4)
TABLE = distinct_codes(N, SIZES, seed=3)
ITEMS = [ItemText(f"thing{n}x", {"category": ("Drama", "Comedy")[n % 2]}) for n in range(N)]
CASES = [Case((1, 2), 3, (1, 2)), Case((2, 4), 5, (4, 2)), Case((5, 1), 6, (5,))]


class Told:
    """A source that says the same of every case, and what it took."""

    def __init__(self, costs):
        self.given, self.calls = costs, 0

    def explain(self, cases):
        self.calls += 1
        return [(case.evidence[0], " drama.") if case.evidence else None for case in cases]

    def costs(self):
        return self.given


def world(folder, source, validate=lambda *_: 0.5):
    model, vocabulary = taught(TABLE, SIZES)
    users = np.repeat(np.arange(1, 7), 4)
    items = np.concatenate([(start + np.arange(4)) % N + 1 for start in range(6)])
    context = Context(
        folder=folder, model=model, vocabulary=vocabulary, histories=from_pairs(users, items, 7), validate=validate,
        seed=1, facts={"data_fingerprint": "ring"}, scalar=lambda *_: None, show_progress=False,
    )  # fmt: skip
    options = ActivationOptions(rounds=1, tokens_per_batch=200, row_tokens=100, precision="float32", checkpoints=0)
    vectors = np.eye(N, 4, dtype=np.float32)
    words = torch.from_numpy(all_words(vocabulary))
    means = Means(lambda: source, lambda: vectors, Filter(ITEMS, vocabulary), lambda *_: [], words, {})
    stage = Activation(options, 5, means)
    return context, stage


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_a_source_took_stands_in_the_figures_of_the_stage_also_where_it_was_cut_off_since(tmp_path):
    def killed(*_):
        raise KeyboardInterrupt

    context, stage = world(tmp_path, Told({"asked": 7, "failed": 2, "seconds": 1.5}), killed)
    with pytest.raises(KeyboardInterrupt):
        run_stages([stage], context)
    later = Told({"asked": 0})
    context, stage = world(tmp_path, later)
    [row] = run_stages([stage], context)
    assert row["figures"]["source"] == {"name": "category", "asked": 7, "failed": 2, "seconds": 1.5}
    assert not later.calls, "no one is asked again"


def test_categories_take_nothing():
    source = Category(ActivationOptions(), ITEMS, taught(TABLE, SIZES)[1])
    assert all(source.explain(CASES)) and source.costs() == {}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_asked_share_of_rationales_ends_with_the_category_of_the_target(share):
    source = Category(ActivationOptions(target_category=share), ITEMS, taught(TABLE, SIZES)[1])
    given = source.explain(CASES * 200)
    ends = [any("Next:" in str(piece) for piece in pieces) for pieces in given]
    assert np.mean(ends) == pytest.approx(share, abs=0.1)  # 5 standard errors
    assert given == source.explain(CASES * 200), "the same cases whenever they are asked about"


def test_what_is_named_is_what_the_options_say():
    vocabulary = taught(TABLE, SIZES)[1]
    [said, *_] = Category(ActivationOptions(named="codes"), ITEMS, vocabulary).explain(CASES[:1])
    assert said == tuple(dict.fromkeys(Group(f"<a_{TABLE[item - 1][0]}>") for item in (1, 2)))


@pytest.mark.parametrize("wrong", [{"named": "titles"}, {"target_category": 1.5}, {"target_category": 0.5, "kinds": 0}])
def test_a_share_that_is_none_or_leaves_rationales_without_a_word_is_refused(wrong):
    with pytest.raises(InputError, match="activation"):
        ActivationOptions(**wrong)


def test_the_model_itself_counts_the_answers_it_was_asked_for_and_those_kept_are_not_asked_for(tmp_path):
    model, vocabulary = taught(TABLE, SIZES)

    def own():
        return Own(model, vocabulary, 6, Answers(tmp_path / "said.sqlite", "ring"), 3, show_progress=False)

    first = own()
    given = first.explain(CASES[:2])
    assert first.costs()["asked"] == 2 and "seconds" in first.costs()
    again = own()
    assert again.explain(CASES)[:2] == given
    assert again.costs()["asked"] == 1


def test_the_model_itself_explains_in_words_alone_however_much_it_would_say_codes(tmp_path):
    model, vocabulary = taught(TABLE, SIZES)
    with torch.no_grad():
        model.get_output_embeddings().rows.mul_(50)  # far likelier than any word, or far less
    given = Own(model, vocabulary, 12, Answers(tmp_path / "said.sqlite", "ring"), 3, show_progress=False).explain(CASES)
    said = [piece for pieces in given for piece in pieces]
    assert said and all(isinstance(piece, str) and piece != "?" for piece in said)
