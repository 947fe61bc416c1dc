import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_think.itemic.vocabulary import CodeHead
from recbole_think.stages import cross_entropy
from recbole_think.stages.cross_entropy import vocabulary_loss

N, WIDTH, WORDS, CODES, SPARE = 23, 16, 40, 11, 3
NAMES = ("hidden", "words", "rows")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks and blocks that do not divide one another or the number of positions."""
    monkeypatch.setattr(cross_entropy, "CHUNK", 7)
    monkeypatch.setattr(cross_entropy, "BLOCK", 3)
    monkeypatch.setattr(cross_entropy, "LINES", 9)


def world(words_learn=True, bias=False, spread=1.0):
    """A head whose backbone has spare rows behind the words, hidden states, and targets of both kinds."""
    dice = torch.Generator().manual_seed(0)
    text = nn.Linear(WIDTH, WORDS + SPARE, bias=bias)
    with torch.no_grad():
        text.weight.normal_(generator=dice)
    text.requires_grad_(words_learn)
    head = CodeHead(text, nn.Parameter(torch.randn(CODES, WIDTH, generator=dice)), WORDS)
    hidden = (spread * torch.randn(N, WIDTH, generator=dice)).requires_grad_()
    return head, hidden, torch.randint(0, WORDS + CODES, (N,), generator=dice)


def plain(head, hidden, targets):
    return functional.cross_entropy(head(hidden).float(), targets, reduction="sum")


def measured(loss, head, hidden, targets):
    """The loss, scaled as a mean is, and the gradients by name."""
    head.zero_grad()
    hidden.grad = None
    found = loss(head, hidden, targets) / 5
    found.backward()
    gradients = (hidden.grad, head.text.weight.grad, head.rows.grad)
    return found.detach(), {name: value for name, value in zip(NAMES, gradients, strict=True) if value is not None}


@pytest.mark.parametrize("words_learn", [True, False])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_chunks_give_the_loss_and_gradients_of_the_whole(words_learn, spread):
    made = world(words_learn, spread=spread)
    wanted, expected = measured(plain, *made)
    found, gradients = measured(vocabulary_loss, *made)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected.keys() and ("words" in gradients) == words_learn
    for name, value in gradients.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5 * spread)


def test_in_bfloat16_both_are_as_far_from_the_exact_gradients():
    made = world()
    _, exact = measured(plain, *made)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, expected = measured(plain, *made)
        found, gradients = measured(vocabulary_loss, *made)
    assert float(found) == pytest.approx(float(wanted), rel=1e-3)
    for name, value in gradients.items():
        off, usual = ((of[name] - exact[name]).norm() / exact[name].norm() for of in (gradients, expected))
        assert off < 1.2 * usual and usual < 1e-2, name
        assert value.dtype == torch.float32


def test_codes_can_be_left_out_of_the_softmax():
    head, hidden, targets = world()
    targets = targets.clamp(max=WORDS - 1)
    with torch.no_grad():
        wanted = functional.cross_entropy(head.text(hidden)[:, :WORDS], targets, reduction="sum")
        assert float(vocabulary_loss(head, hidden, targets, words_alone=True)) == pytest.approx(float(wanted), rel=1e-5)


def test_a_head_of_another_kind_makes_its_own_logits():
    made = world(bias=True)
    wanted, expected = measured(plain, *made)
    found, gradients = measured(vocabulary_loss, *made)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients, expected)


class Shapes(TorchDispatchMode):
    """Notes the shapes of everything that is computed."""

    def __init__(self):
        super().__init__()
        self.seen: set[tuple] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and func in (torch.ops.aten.mm.default, torch.ops.aten.zeros_like.default):
            self.seen.add(tuple(found.shape))
        return found


@pytest.mark.parametrize("words_learn", [True, False])
def test_frozen_words_get_no_gradient_and_none_is_computed(words_learn):
    made = world(words_learn)
    with Shapes() as shapes:
        _, gradients = measured(vocabulary_loss, *made)
    assert ((WORDS, WIDTH) in shapes.seen) == words_learn == ("words" in gradients)
    assert all(rows <= N or words_learn for rows, *_ in shapes.seen)


def test_without_gradients_only_the_loss_is_made():
    head, hidden, targets = world()
    with torch.no_grad(), Shapes() as shapes:
        loss = vocabulary_loss(head, hidden, targets)
    assert not loss.requires_grad and not shapes.seen
    assert float(loss) == pytest.approx(float(plain(head, hidden, targets).detach()), rel=1e-5)


def test_frozen_words_are_cast_once_until_they_change():
    head, _, _ = world(words_learn=False)
    kept = head.words(torch.bfloat16)
    assert head.words(torch.bfloat16) is kept and kept.shape == (WORDS, WIDTH)
    with torch.no_grad():
        head.text.weight.copy_(head.text.weight + 1)
    assert torch.equal(head.words(torch.bfloat16), head.text.weight[:WORDS].bfloat16())
    head.text.requires_grad_(True)
    with torch.no_grad():
        head.text.weight.add_(1)
    assert torch.equal(head.words(torch.bfloat16), head.text.weight[:WORDS].bfloat16())
    assert set(head.state_dict()) == {"rows", "text.weight"}
