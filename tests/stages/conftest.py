"""What several stages' tests begin with, and takes long to learn."""

import pytest

from tests.thinkers import thinker


@pytest.fixture(scope="session")
def activated(tmp_path_factory):
    """Weights of a model that thinks red or blue by a coin."""
    made = thinker(tmp_path_factory.mktemp("activated"))
    made.activation().run(made.context)
    return {name: value.detach().clone() for name, value in made.context.model.named_parameters()}
