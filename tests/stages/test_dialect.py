import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from recbole_think.itemic.backbone import tiny
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import extend_tokenizer, teach_vocabulary
from recbole_think.stages.dialect import Dialect, dialect_of, spoken_model
from tests.small import backbone_of, distinct_codes, item_texts, plain_qwen, taught

SIZES = (3, 4)
TABLE = distinct_codes(8, SIZES)


def world(kind):
    codes = Codes(TABLE, SIZES)
    if kind in ("tied", "untied"):
        if kind == "tied":
            return taught(TABLE, SIZES)
        _, tokenizer = tiny(item_texts(8))
        model = plain_qwen(len(tokenizer))
    else:
        _, tokenizer = tiny(item_texts(8))
        model = backbone_of(kind, len(tokenizer))
    vocabulary = extend_tokenizer(tokenizer, codes)
    teach_vocabulary(model, vocabulary, codes, item_texts(8))
    return model.eval(), vocabulary


def dialect(vocabulary):
    words = vocabulary.encode("thing number of the red box")
    return dialect_of(words, torch.cat(vocabulary.code_tokens).numpy(), np.array(vocabulary.marks))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["tied", "untied", "llama", "gemma", "gemma3_text"])
def test_a_dialect_has_the_logits_of_its_tokens_and_no_others(kind, tmp_path):
    model, vocabulary = world(kind)
    chosen = dialect(vocabulary)
    plain = spoken_model(model, chosen)
    ids = chosen.tokens[np.random.default_rng(0).integers(len(chosen.tokens), size=(2, 9))]
    wanted = model(torch.from_numpy(ids)).logits[..., torch.from_numpy(chosen.tokens)]
    found = plain(torch.from_numpy(chosen.ids(ids))).logits
    assert found.shape[-1] == len(chosen.tokens) + 1 == chosen.pad + 1
    torch.testing.assert_close(found[..., :-1], wanted, atol=1e-4, rtol=1e-4)
    plain.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=model.config._attn_implementation)
    torch.testing.assert_close(again(torch.from_numpy(chosen.ids(ids))).logits, found, atol=1e-5, rtol=1e-5)


def test_layers_are_shared_and_rows_are_not():
    model, vocabulary = world("tied")
    plain = spoken_model(model, dialect(vocabulary))
    before = model.get_input_embeddings().rows.clone()
    own = dict(model.named_parameters())
    shared = {name for name, value in plain.named_parameters() if name in own and own[name] is value}
    assert {name for name in own if ".layers." in name} <= shared
    loss = plain(torch.tensor([[1, 2, 3]])).logits.square().sum()
    loss.backward()
    torch.optim.SGD([value for value in plain.parameters() if value.requires_grad], lr=0.1).step()
    assert torch.equal(model.get_input_embeddings().rows, before)
    assert plain.get_input_embeddings().weight.grad is None is plain.get_output_embeddings().weight.grad
    assert own["model.layers.0.mlp.up_proj.weight"].grad is not None, "what trains one trains the other"
    assert model.config.vocab_size != plain.config.vocab_size, "the taught model's own facts stay"


def test_its_tokenizer_spells_and_reads_back():
    _, vocabulary = world("tied")
    chosen = dialect(vocabulary)
    tokenizer = chosen.tokenizer(vocabulary)
    text = " ".join(vocabulary.tokenizer.convert_ids_to_tokens(chosen.tokens.tolist()))
    assert tokenizer(text)["input_ids"] == list(range(len(chosen.tokens)))
    assert tokenizer.eos_token_id == int(chosen.ids(vocabulary.marks[1]))
    assert tokenizer.pad_token_id == chosen.pad


def test_a_token_that_is_not_spoken_is_refused():
    chosen = Dialect(np.array([3, 5, 9]))
    assert chosen.ids([9, 3]).tolist() == [2, 0]
    for strange in (4, 12):
        with pytest.raises(KeyError, match=f"token {strange}"):
            chosen.ids([3, strange])
