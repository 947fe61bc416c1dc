import pytest

from recbole_think.errors import InputError
from recbole_think.stages.dialect import dialect_of
from recbole_think.stages.vllm_server import require_server
from tests.small import distinct_codes, taught
from tests.stages.test_enhancement import activated_thinker
from tests.stand_in import server_that_says, standing_in

LONGEST = 60


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tokenizer():
    _, vocabulary = taught(distinct_codes(20, (4, 8)), (4, 8))
    return dialect_of([3, 9, 12], vocabulary.marks).tokenizer(vocabulary)


def answers(tokenizer, longest=LONGEST, mode="processed_logprobs", transfer=None):
    """What a server says that was started as it should be."""
    config = {
        "model_config": {"max_model_len": longest, "logprobs_mode": mode},
        "weight_transfer_config": {"backend": "nccl"} if transfer is None else transfer,
    }
    return {
        "/v1/models": {"data": [{"id": "policy"}]},
        "/server_info": {"vllm_config": config},
        "/detokenize": lambda posted: {"prompt": tokenizer.decode(posted["tokens"])},
    }


def asked(url, folder, tokenizer):
    require_server(url, folder / "policy", LONGEST, tokenizer)


def test_a_server_that_was_started_for_the_policy_is_taken(tmp_path, tokenizer):
    with server_that_says(answers(tokenizer)) as url:
        asked(url, tmp_path, tokenizer)
        asked(f"{url}/", tmp_path, tokenizer)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"/server_info": None}, "VLLM_SERVER_DEV_MODE=1 is not set there"),
        ({"/v1/models": {"data": []}}, "not what a vLLM server says"),
        ({"/v1/models": None}, "it answers 404 to /v1/models"),
        ({"longest": 59}, "it reads 59 tokens at most, and a prompt with its rationale has up to 60"),
        ({"mode": "raw_logprobs"}, "its log-probabilities are raw_logprobs"),
        ({"transfer": {}}, "weights cannot be sent to it by NCCL"),
        ({"/detokenize": {"prompt": "other words"}}, "the tokens it serves are others"),
    ],
)
def test_another_server_is_refused_with_the_command_that_starts_the_right_one(tmp_path, tokenizer, change, said):
    settings = {name: value for name, value in change.items() if not name.startswith("/")}
    paths = {name: value for name, value in change.items() if name.startswith("/")}
    command = "VLLM_SERVER_DEV_MODE=1 vllm serve .*/policy .* --max-model-len 60 --logprobs-mode processed_logprobs"
    with (
        server_that_says({**answers(tokenizer, **settings), **paths}) as url,
        pytest.raises(InputError, match=f"{said}.*{command}"),
    ):
        asked(url, tmp_path, tokenizer)


def test_a_stage_without_its_server_ends_before_it_trains_and_leaves_what_to_serve(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    policy = tmp_path / "enhancement" / "checkpoints" / "reference"
    with standing_in() as engines:
        with pytest.raises(InputError, match=rf"cannot be reached.*vllm serve {policy} .* --port 9 "):
            made.enhancement(vllm="server", vllm_server="http://127.0.0.1:9").run(made.context)
        assert not engines
        assert (policy / "config.json").is_file() and (policy / "tokenizer.json").is_file()


def test_a_stage_goes_on_where_its_server_answers(tmp_path, activated):
    made = activated_thinker(tmp_path, activated)
    words = made.ranker.words.numpy()
    stage = made.enhancement(steps=1)
    dialect = dialect_of(
        *(ids for ids, _, _ in stage._prompts(made.context)), words, *made.ranker.vocabulary.code_tokens
    )
    with (
        server_that_says(answers(dialect.tokenizer(made.ranker.vocabulary))) as url,
        standing_in() as engines,
    ):
        made.enhancement(steps=1, vllm="server", vllm_server=url).run(made.context)
    [engine] = engines
    assert engine.given["mode"] == "server" and engine.given["server_base_url"] == url and engine.sent == 1
