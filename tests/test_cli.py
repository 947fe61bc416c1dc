import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_think.cli import main
from tests.toy import write_toy

CATALOGUE = [
    "OneRecThink",
    "Pop",
    "ItemKNN",
    "BPR",
    "GRU4Rec",
    "NARM",
    "SASRec",
    "SASRecAll",
    "HSTU",
    "ReaRec",
    "TIGER",
    "BERT4Rec",
    "HGN",
    "LightSANs",
    "FEARec",
]
THINK = ["--model=OneRecThink", "--dataset=toy", "--data_path=data", "--backbone.name=tiny"]

TEACHER = [*THINK, "--activation.source=teacher"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBOLE_THINK_CACHE", str(tmp_path / "cache"))
    write_toy(tmp_path / "data", {f"u{n}": ["a", "b", "c", "d", "e", "f", "g", "h"][n : n + 5] * 2 for n in range(4)})


def refused(argv, capsys) -> str:
    """The message of a command that is refused: exit code 2, one line, and nothing left behind."""
    before = sorted(Path("data").rglob("*"))
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-1].startswith("error: ") and sum(line.startswith("error:") for line in lines) == 1
    assert "Traceback" not in err
    assert len(lines) == 1, f"one line and no more: {err}"
    assert not list(Path("runs").glob("*/*")), "no run folder is left"
    assert sorted(Path("data").rglob("*")) == before
    return lines[-1]


ALL_STAGES = "[token_warmup,multi_task,recommendation,item_enhancement,activation,enhancement]"
BLOCKS = ("itemic", "backbone", "prompts", "recommendation", "decode")
SAS = ["--model=SASRec", "--dataset=toy", "--data_path=data"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model=OneRecThnk", *SAS[1:]], "Did you mean 'OneRecThink'"),
        (["--model=sasrec", *SAS[1:]], "Did you mean 'SASRec'"),
        (["--dataset=toy"], "--model=<name> is missing"),
        (["--model=SASRec"], "--dataset=<name> is missing"),
        (["--model=", "--dataset=toy"], "--model=<name> is missing"),
        (["--model=SASRec", "--dataset=tooy", "--data_path=data"], "'tooy' was not found"),
        (["--model=SASRec", "--dataset=toy", "--data_path=nowhere"], "--data_path"),
        ([*SAS, "--epoch=3"], "did you mean epochs"),
        ([*SAS, "--epochs"], "--key=value, got '--epochs'"),
        ([*SAS, "--epochs", "3"], "did you mean --epochs=3"),
        ([*SAS, "epochs=3"], "--key=value"),
        ([*SAS, "--seed=1", "--seed=2"], "--seed is given twice, as '1' and '2'"),
        ([*SAS, "--model=BPR"], "--model is given twice"),
        ([*SAS, "--valid_metric=Recall@7"], "valid_metric='Recall@7' is not among"),
        ([*SAS, "--topk=[5"], "topk"),
        ([*SAS, "--config_files=gone.yaml"], "gone.yaml"),
        ([*SAS, "--TIME_FIELD=when"], "no column 'when'"),
        ([*SAS, "--itemic.size=4"], "itemic"),
        ([*SAS, "--enhancement2.x=1"], "enhancement2"),
        ([*THINK, "--enhancement2.x=1"], "enhancement2"),
        ([*THINK, "--recommendations.epochs=1"], "did you mean recommendation"),
        ([*THINK, "--recommendation.epoch=1"], "did you mean recommendation.epochs"),
        *(([*THINK, f"--{block}=3"], f"{block} must be a block") for block in BLOCKS),
        ([*THINK, "--stages=[recomendation]"], "unknown stage 'recomendation'; did you mean recommendation"),
        ([*THINK, "--stages=recommendation"], "stages must be a list"),
        ([*THINK, "--stages=3"], "stages must be a list"),
        ([*THINK, "--stages=[recommendation,enhancement]"], "name activation as well"),
        ([*THINK, f"--stages={ALL_STAGES}"], "both want every user's last training event"),
        ([*THINK, "--item_enhancement.beams=1"], "a group of one has nothing to compare"),
        ([*THINK, "--stages_from=nowhere"], "is no run folder"),
        ([*THINK, "--recommendation.epochs=many"], "recommendation.epochs must be int"),
        ([*THINK, "--recommendation.epochs="], "recommendation.epochs must be int"),
        ([*THINK, "--epochs=3"], "recommendation.epochs"),
        ([*THINK, "--decode.thought_beams=19"], "decode.thought_beams=19 cannot fill a top-20 list"),
        ([*THINK, "--decode.think=false", "--decode.num_beams=19"], "decode.num_beams=19 cannot fill a top-20 list"),
        ([*THINK, "--topk=[100]", "--valid_metric=NDCG@100"], "decode.thought_beams >= 100"),
        ([*THINK, "--decode.normalize=best"], "decode.normalize must be one of"),
        ([*THINK, "--eval_args.mode=uni100"], "eval_args.mode=full"),
        ([*THINK, "--itemic.collisions=ignore"], "itemic.collisions"),
        ([*THINK, "--itemic.vector_files=own.npy"], "itemic.vector_files must be a list"),
        ([*THINK, "--backbone.layers=-1"], "backbone.layers"),
        ([*THINK, "--multi_task.persona=-0.1"], "multi_task.persona is the share of a task and must not be negative"),
        (
            [*THINK, *(f"--multi_task.{task}=0" for task in ("sequential", "persona", "captioning", "general"))],
            "are all 0; raise one",
        ),
        ([*THINK, "--alignment.general=gone"], "is no folder and no file"),
        ([*THINK, "--alignment.general=data"], "holds no .txt file"),
        ([*THINK, "--alignment.held_out=1.0"], "alignment.held_out"),
        ([*THINK, "--stages=[token_warmup,multi_tusk]"], "did you mean multi_task"),
        (TEACHER, "activation.source=teacher needs teacher.url, which is empty"),
        ([*TEACHER, "--teacher.model=qwen3-8b"], "activation.source=teacher needs teacher.url, which is empty"),
        ([*TEACHER, "--teacher.url=http://127.0.0.1:1/v1"], "activation.source=teacher needs teacher.model"),
        ([*TEACHER, "--teacher.url=127.0.0.1:1/v1", "--teacher.model=m"], "must begin with http:// or https://"),
        ([*TEACHER, "--teacher.workers=0"], "teacher.workers must be at least 1, got 0"),
        ([*THINK, "--decode.engine=vlm"], "decode.engine must be one of"),
        ([*THINK, "--decode.engine=vllm"], "needs vLLM, which is not installed"),
        ([*THINK, "--decode.engine=openai"], "needs engine.url, the address of a server"),
        ([*THINK, "--decode.engine=openai", "--decode.normalize=vocab"], "of which a server gives no probabilities"),
        ([*THINK, "--engine.patience_s=-1"], "engine.patience_s must not be negative"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_refused_in_one_line(argv, message, capsys):
    assert message in refused(argv, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "toy.item does not exist"),
        ("item_id\ttitle\na\tA\n", "name:type"),
        ("asin:token\ttitle:token\na\tA\n", "no id column 'item_id'"),
        ("item_id:token\ttitle:token\na\tA\nb\n", "line 3: 1 tab-separated cells"),
        ("item_id:token\ttitle:token\na\tA\nb\tB\na\tA\n", "line 4: item id 'a' is listed twice"),
    ],
    ids=["missing", "no header", "no id column", "short line", "id twice"],
)
def test_an_item_file_our_model_cannot_read_is_refused_before_anything_runs(text, message, capsys):
    path = Path("data/toy/toy.item")
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert message in refused(THINK, capsys)


def test_a_user_file_with_users_the_interactions_do_not_know_is_refused_before_anything_runs(capsys):
    Path("data/toy/toy.user").write_text("user_id:token\tage:token\nu0\t24\nu77\t30\n")
    assert "1 of 2 users are not in toy.inter, the first is 'u77'" in refused(THINK, capsys)


@pytest.mark.parametrize(
    "argv",
    [
        [*THINK, "--backbone.layers=9"],
        [*THINK, "--itemic.size=500", "--itemic.text_weight=0.0"],
        [*THINK, "--itemic.vector_files=[gone.npy]", "--itemic.text_weight=0.0"],
    ],
    ids=["layers", "size", "vectors"],
)
def test_what_shows_only_once_the_data_is_read_leaves_no_run_folder_either(argv, capsys, monkeypatch):
    monkeypatch.setattr("recbole_think.itemic.embed.encode", lambda texts, _: np.eye(len(texts), 8, dtype=np.float32))
    assert main([*argv, "--show_progress=false"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("error: ")
    assert not list(Path("runs").glob("*/*"))


def test_a_file_named_from_where_the_command_was_given_is_found(capsys, monkeypatch):
    # the run works inside its own folder: paths of the command line are those of the caller all the same
    np.save("own.npy", np.random.default_rng(0).normal(size=(8, 4)))
    code = main(
        [
            *THINK, "--itemic.vector_files=[own.npy]", "--itemic.text_weight=0.0", "--itemic.collaborative_weight=0.0",
            "--backbone.layers=9", "--show_progress=false",
        ]
    )  # fmt: skip
    assert code == 2
    assert "backbone.layers=9" in capsys.readouterr().err, "the vectors were found, the layers were not"


def test_a_model_in_a_folder_beside_the_caller_is_found(capsys):
    from recbole_think.itemic.backbone import tiny
    from tests.small import item_texts

    model, tokenizer = tiny(item_texts(5))
    model.save_pretrained("my_model")
    tokenizer.save_pretrained("my_model")
    words = [word for word in THINK if not word.startswith("--backbone")]
    code = main(
        [
            *words,
            "--backbone.name=./my_model",
            "--backbone.layers=9",
            "--itemic.text_weight=0.0",
            "--show_progress=false",
        ]
    )
    assert code == 2
    assert "this backbone has 2 layers" in capsys.readouterr().err


def test_json_prints_the_record_and_nothing_else(capsys):
    argv = [
        "--model=Pop", "--dataset=toy", "--data_path=data", "--run_folder=run", "--show_progress=false", "--json",
        "--topk=[2]", "--valid_metric=Recall@2",
    ]  # fmt: skip
    assert main(argv) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["model"] == "Pop" and first == json.loads(Path("run/metrics.json").read_text())
    assert main(argv) == 0, "the second time it is read back"
    assert json.loads(capsys.readouterr().out) == first
    assert main([word for word in argv if word != "--json"]) == 0
    assert capsys.readouterr().out.rstrip().endswith(str(Path("run").resolve()))


def test_another_configuration_in_the_same_folder_is_refused_and_restart_takes_it(capsys):
    argv = [
        "--model=Pop", "--dataset=toy", "--data_path=data", "--run_folder=run", "--show_progress=false", "--topk=[2]",
        "--valid_metric=Recall@2",
    ]  # fmt: skip
    assert main(argv) == 0
    kept = Path("run/metrics.json").read_text()
    capsys.readouterr()
    assert main([*argv, "--seed=7"]) == 2
    assert "holds a run with seed=2020, this command has seed=7" in capsys.readouterr().err
    assert Path("run/metrics.json").read_text() == kept
    assert main([*argv, "--seed=7", "--restart"]) == 0
    assert json.loads(Path("run/metrics.json").read_text())["seed"] == 7


def test_data_a_model_cannot_be_trained_on_is_refused_and_no_traceback(capsys):
    write_toy(Path("data"), {"u": ["a", "b", "c", "d"], "v": ["a", "b", "c"]})  # u has met everything there is
    assert main([*SAS[1:], "--model=BPR", "--show_progress=false"]) == 2
    assert "error: " in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_think.experiment.run", interrupt)
    assert main(SAS) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_numbers_that_ran_away_are_told_in_one_line(capsys, monkeypatch):
    def ran_away(*_, **__):
        raise FloatingPointError("stage recommendation, step 7: the loss is nan")

    monkeypatch.setattr("recbole_think.experiment.run", ran_away)
    assert main(SAS) == 2
    assert capsys.readouterr().err.endswith("error: stage recommendation, step 7: the loss is nan\n")


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("recbole_think.experiment.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(SAS)


def test_the_list_names_models_and_data_sets(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in [*CATALOGUE, "S3Rec", "LightGCN", "ml-100k", "beauty"])


def test_help_explains_the_words_and_the_options_of_a_model(capsys):
    assert main([]) == main(["--help"]) == main(["-h"]) == 0
    assert capsys.readouterr().out.count("python run_recbole_think.py --model=<name>") == 3
    assert main(["--help", "--model=OneRecThink"]) == 0
    out = capsys.readouterr().out
    assert "--restart" in out and "recommendation:" in out and "num_beams" in out
    assert main(["--help", "--model=OneRecThnk"]) == 2
    assert "Did you mean 'OneRecThink'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--list"], ["--help"], ["--help", "--model=OneRecThink"], ["--model=SASRec"], ["x"]])
def test_what_needs_no_model_loads_no_torch(argv, tmp_path):
    code = (
        "import sys; from recbole_think.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'recbole', 'sklearn', 'pandas'} & set(sys.modules); "
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
