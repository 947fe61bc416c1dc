"""A tiny checkpoint of each family of language models goes through every stage, evaluation and export."""

import pytest

from recbole_think.experiment import run
from recbole_think.export import agreement, export
from recbole_think.itemic.backbone import tiny
from tests.small import FAMILIES, backbone_of
from tests.toy import SMALL, settings, title

STAGES = ["token_warmup", "multi_task", "recommendation", "item_enhancement", "activation", "enhancement"]


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [0, 2], ids=["all parameters", "adapters"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_through_all_stages(family, adapters, toy_path, tmp_path):
    _, tokenizer = tiny([title(f"p{n}") for n in range(24)])
    model = backbone_of(family, len(tokenizer))
    model.config.sliding_window = 512  # of those that have one: longer than a prompt
    model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    blocks = {
        name: {**SMALL["OneRecThink"][name], "gradient_checkpointing": bool(adapters), "lora_rank": adapters}
        for name in STAGES[1:]
    }
    given = settings(
        "OneRecThink", toy_path, tmp_path / "run", stages=STAGES,
        backbone={"name": str(tmp_path / "backbone"), "layers": 2}, **blocks,
    )  # fmt: skip
    result = run("OneRecThink", "toy", config_dict=given)
    metrics = result["metrics"]
    assert [row["stage"] for row in metrics["stages"]] == STAGES
    assert metrics["illegal_rate"] == 0 and metrics["users"] == 40
    export(result["run_folder"], tmp_path / "plain")
    same, asked = agreement(result["run_folder"], tmp_path / "plain", 40)
    assert same == asked == 40, "read back, it gives the very lists"
