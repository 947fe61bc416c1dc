import pytest
import torch

from recbole_think.stages.dropping import dropping
from tests.small import FAMILIES, WORDS, backbone_of

IDS = torch.arange(1, 13).view(2, 6)


def read(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("hidden", "attention"), [(0.5, 0.0), (0.0, 0.5), (0.3, 0.3)])
def test_a_layer_drops_while_it_is_trained_and_only_then(family, hidden, attention):
    model = backbone_of(family, WORDS)
    plain = read(model)
    with dropping(model, hidden, attention):
        torch.testing.assert_close(read(model), plain, msg="in evaluation mode nothing is dropped")
        model.train()
        assert not torch.allclose(read(model), plain)
        assert not torch.allclose(read(model), read(model)), "anew every time"
    torch.testing.assert_close(read(model), plain, msg="the model is left as it was, in training mode too")


def test_without_a_share_nothing_is_touched():
    model = backbone_of("qwen3", WORDS).train()
    plain = read(model)
    with dropping(model, 0.0, 0.0):
        torch.testing.assert_close(read(model), plain)


def test_the_expectation_of_what_a_sublayer_adds_stays():
    model = backbone_of("llama", WORDS).train()
    part = model.get_decoder().layers[0].mlp
    given = torch.ones(1, 1, 16)
    with torch.no_grad(), dropping(model, 0.4, 0.0):
        mean = torch.stack([part(given) for _ in range(4000)]).mean(0)
        found = torch.stack([part(given) for _ in range(50)])
    torch.testing.assert_close(mean, part(given), atol=0.1, rtol=0.1)
    assert 0.3 < float((found == 0).float().mean()) < 0.5


def test_a_failure_within_leaves_the_model_as_it_was():
    model = backbone_of("llama", WORDS).train()
    plain = read(model)
    with pytest.raises(KeyError), dropping(model, 0.5, 0.5):
        raise KeyError
    torch.testing.assert_close(read(model), plain)
