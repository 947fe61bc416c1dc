"""What is searched, read from YAML and from RecBole's files; never as code."""

import math

import pytest

from recbole_think.errors import InputError
from recbole_think.search.space import loaded, read_hyper_file, read_space

HYPER = """\
learning_rate loguniform -8,0
embedding_size choice [64, 96 , 128]
dropout uniform 0.0,0.5
n_layers quniform 1,4,1
weight quniform 0.0,1.0,0.25
mlp choice ['[64,32]','[32]']

# a comment
"""


class Trial:
    """Suggests the highest value, and notes what was asked for."""

    def __init__(self):
        self.asked = {}

    def suggest_float(self, name, low, high, log=False, step=None):
        self.asked[name] = ("float", low, high, log, step)
        return high

    def suggest_int(self, name, low, high):
        self.asked[name] = ("int", low, high)
        return high

    def suggest_categorical(self, name, choices):
        self.asked[name] = tuple(choices)
        return choices[-1]


def drawn(space):
    trial = Trial()
    return {name: of.drawn(name, trial) for name, of in space.items()}, trial.asked


def test_recboles_file_means_what_it_means_there(tmp_path):
    (tmp_path / "hyper.test").write_text(HYPER)
    values, asked = drawn(read_hyper_file(tmp_path / "hyper.test"))
    assert values == {
        "learning_rate": 1.0, "embedding_size": 128, "dropout": 0.5, "n_layers": 4, "weight": 1.0, "mlp": "[32]",
    }  # fmt: skip
    assert asked["learning_rate"] == ("float", math.exp(-8), 1.0, True, None), "powers of e, as in hyperopt"
    assert asked["weight"] == ("float", 0.0, 1.0, False, 0.25)
    assert asked["n_layers"] == ("int", 1, 4)


def test_yaml_says_the_same_and_keeps_lists_and_blocks():
    space = read_space(
        {"decode.num_beams": {"int": [5, 50]}, "stages": [["recommendation"], []], "x": [True, None]}, "f"
    )
    values, asked = drawn(space)
    assert values == {"decode.num_beams": 50, "stages": [], "x": None}
    assert asked["stages"] == ('["recommendation"]', "[]"), "as text, which Optuna can keep"


def test_numbers_may_be_written_as_in_recboles_files(tmp_path):
    assert loaded("{a: [1e-3, 2.5E+2, 1e, x1e3]}", "here") == {"a": [0.001, 250.0, "1e", "x1e3"]}
    (tmp_path / "hyper.test").write_text("a choice [1e-3,1e-4]\nb quniform 1e-1,5e-1,1e-1\n")
    values, _ = drawn(read_hyper_file(tmp_path / "hyper.test"))
    assert values == {"a": 0.0001, "b": 0.5}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "space must name options"),
        ({"a": 3}, "expected a list of values, or one of"),
        ({"a": {"normal": [0, 1]}}, "expected a list of values, or one of"),
        ({"a": {"uniform": [1, 0]}}, "a lower and a higher number"),
        ({"a": {"log": [0, 1]}}, "numbers above 0"),
        ({"a": {"int": [0.5, 2]}}, "whole numbers"),
        ({"a": {"uniform": [0, 1, 0]}}, "the step must be positive"),
        ({"a": []}, "choice wants a list"),
    ],
)
def test_a_space_that_cannot_be_read_says_why(given, said):
    with pytest.raises(InputError, match=said):
        read_space(given, "search.yaml")


@pytest.mark.parametrize("line", ["a choice", "a choice [__import__('os').getcwd()", "a normal 0,1", "a uniform 1", ""])
def test_a_line_that_cannot_be_read_says_which(line, tmp_path):
    (tmp_path / "hyper.test").write_text(line + "\n")
    with pytest.raises(InputError, match=r"hyper\.test"):
        read_hyper_file(tmp_path / "hyper.test")


def test_values_are_never_run(tmp_path):
    (tmp_path / "hyper.test").write_text("a choice [__import__('os').mkdir('ran')]\n")
    values, _ = drawn(read_hyper_file(tmp_path / "hyper.test"))
    assert values["a"] == "__import__('os').mkdir('ran')"
