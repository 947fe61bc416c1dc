import pytest
import torch
import transformers

from recbole_think.stages.attention import KNOWN, NAME, folded

KINDS = {
    "gemma": "Gemma", "gemma3_text": "Gemma3", "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2",
    "qwen3": "Qwen3", "smollm3": "SmolLM3",
}  # fmt: skip
B, T = 2, 9


def tiny(kind: str, attention="eager"):
    """A random model of a kind, four query heads on two key heads."""
    named = KINDS[kind]
    config = getattr(transformers, f"{named}TextConfig" if kind == "gemma3_text" else f"{named}Config")(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None, pad_token_id=0, attn_implementation=attention,
    )  # fmt: skip
    torch.manual_seed(0)
    return getattr(transformers, f"{named}ForCausalLM")(config).train()


def masked() -> torch.Tensor:
    """Two examples a row; the last token of the second row sees nothing at all."""
    part = torch.tensor([0] * 4 + [1] * 5)
    seen = (part[:, None] == part[None]) & torch.ones(T, T, dtype=torch.bool).tril()
    seen = seen.repeat(B, 1, 1)
    seen[1, -1] = False
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min).unsqueeze(1)


def step(model):
    """Hidden states that count, and gradients."""
    ids = torch.arange(B * T).view(B, T) % 39 + 1
    model.zero_grad()
    hidden = model.get_decoder()(input_ids=ids, attention_mask=masked(), use_cache=False).last_hidden_state
    kept = hidden[:, : T - 1].float()
    (kept * torch.linspace(-1, 1, kept.numel()).view_as(kept)).sum().backward()
    assert hidden.isfinite().all()
    return kept.detach(), {
        name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None
    }


def test_every_kind_that_is_folded_is_compared_here():
    assert set(KINDS) == KNOWN


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_plain_attention_in_float32(kind):
    model = tiny(kind)
    wanted, expected = step(model)
    with folded(model):
        assert model.config._attn_implementation == NAME
        found, gradients = step(model)
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_in_bfloat16_it_is_as_near_to_the_exact_gradients_as_the_plain_attention(kind):
    model = tiny(kind)
    _, exact = step(model)
    with torch.autocast("cpu", torch.bfloat16):
        _, usual = step(model)
        with folded(model):
            _, found = step(model)
    for name, value in exact.items():
        off, before = ((of[name] - value).norm() for of in (found, usual))
        assert off < 1.5 * before + 1e-3 * value.norm(), name


def test_a_fused_kernel_or_an_unknown_kind_is_left_alone():
    model = tiny("llama", attention="sdpa")
    with folded(model):
        assert model.config._attn_implementation == "sdpa"
    model = tiny("llama")
    model.config.model_type = "of another kind"
    with folded(model):
        assert model.config._attn_implementation == "eager"
