"""Who may lean on whom, read from the import statements themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import recbole_think

PACKAGE = Path(recbole_think.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
BASE = {"errors", "options", "processes", "artifacts"}  # what every room may use
ROOMS = {
    "corpus": BASE,
    "itemic": BASE | {"corpus"},
    "prompts": BASE | {"corpus", "itemic"},
    "stages": BASE | {"corpus", "itemic", "prompts", "decoding"},
    "decoding": BASE | {"corpus", "itemic"},
    "plan": BASE,
}
TOUCH_RECBOLE = {
    "config.py", "experiment.py", "model.py", "trainer.py", "evaluation.py", "catalog.py", "rivals", "loading.py",
    "fit_state.py",
    "generative.py",
    "distillation.py", "headroom.py",
    "dry_run.py", "scoring.py", "fetch.py",
}  # fmt: skip
TOUCH_TRANSFORMERS = {
    "itemic/backbone.py", "itemic/plain.py", "itemic/vocabulary.py", "prompts/tasks.py", "prompts/alignment.py",
    "stages", "decoding", "rivals",
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "recbole_think" else {module}
    return found


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def ours(path: Path) -> set[str]:
    """First name below our package of every import of ours: a room or a file."""
    return {module.split(".")[1] for module in imports(path) if module.startswith("recbole_think.")}


def others(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


def within(path: Path, places: set[str]) -> bool:
    return name(path) in places or name(path).split("/")[0] in places


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_leans_only_on_the_rooms_below_it(room):
    files = [path for path in FILES if name(path).startswith(f"{room}/")]
    assert files
    found = {name(path): sorted(ours(path) - ROOMS[room] - {room}) for path in files}
    assert not {file: wrong for file, wrong in found.items() if wrong}


def test_only_the_seam_touches_recbole():
    assert [name(path) for path in FILES if "recbole" in others(path) and not within(path, TOUCH_RECBOLE)] == []


def test_only_the_language_model_rooms_touch_transformers():
    assert [
        name(path) for path in FILES if "transformers" in others(path) and not within(path, TOUCH_TRANSFORMERS)
    ] == []


def test_trl_is_for_stages_and_vllm_for_decoding():
    assert [name(path) for path in FILES if "trl" in others(path) and not within(path, {"stages"})] == []
    assert [name(path) for path in FILES if "vllm" in others(path) and not within(path, {"decoding"})] == []


def test_the_ground_floor_leans_on_nothing_above_it():
    assert ours(PACKAGE / "errors.py") == ours(PACKAGE / "processes.py") == set()
    assert ours(PACKAGE / "options.py") <= {"errors"} and ours(PACKAGE / "artifacts.py") <= {"errors", "processes"}
    assert ours(PACKAGE / "folder.py") <= BASE


def test_the_queue_of_a_cluster_knows_nothing_of_models_or_tasks():
    for part in ("storage", "leases", "job", "queue", "worker", "status", "merge"):
        path = PACKAGE / "cluster" / f"{part}.py"
        assert ours(path) <= BASE | {"cluster"}, part
        assert not {module for module in imports(path) if module.startswith("recbole_think.cluster.tasks")}, part
        assert not others(path) & {"torch", "numpy", "recbole", "transformers"}, part


def test_a_store_of_serving_knows_nothing_of_models_and_nothing_below_leans_on_serving():
    for path in (PACKAGE / "serving" / "store").glob("*.py"):
        assert ours(path) <= BASE | {"serving"} and not others(path) & {"torch", "numpy", "recbole", "transformers"}
        assert {module for module in imports(path) if ".serving." in module} <= {"recbole_think.serving.store"} | {
            f"recbole_think.serving.store.{kind}" for kind in ("sqlite", "redis", "scripts")
        }, name(path)
    assert [name(path) for path in FILES if "serving" in ours(path) and not name(path).startswith("serving/")] == []


def test_only_the_server_touches_fastapi():
    web = {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"}
    places = {f"serving/{part}.py" for part in ("app", "schemas", "metrics", "__main__")}
    assert [name(path) for path in FILES if others(path) & web and name(path) not in places] == []


def test_nothing_of_the_package_leans_on_its_tests_or_on_the_command_line():
    for path in FILES:
        assert "tests" not in others(path), name(path)
        assert "cli" not in ours(path) or name(path) == "__main__.py", name(path)
        assert (
            "sys.argv" not in path.read_text()
            or name(path)
            in {
                "cli.py",
                "leaderboard/__main__.py",
                "corpus/convert/__main__.py",
                "report.py",
                "headroom.py",
                "export.py",
                "search/__main__.py",
                "plan/__main__.py",
                "cluster/__main__.py",
                "serving/__main__.py",
                "serving/think_ahead.py",
                "serving/update.py",
                "serving/quality.py",
            }
            or (name(path) == "config.py")
        ), name(path)


def test_rooms_that_lean_on_one_another_in_a_circle_would_be_one_room():
    leans = {
        room: set().union(*(ours(p) for p in FILES if name(p).startswith(f"{room}/"))) & set(ROOMS) for room in ROOMS
    }
    order = ["corpus", "itemic", "prompts", "decoding", "stages"]
    for number, room in enumerate(order):
        assert leans[room] - {room} <= set(order[:number]), room


@pytest.mark.parametrize(
    "module",
    [
        "recbole_think",
        "recbole_think.catalog",
        "recbole_think.cli",
        "recbole_think.errors",
        "recbole_think.plan.__main__",
    ],
)
def test_what_is_imported_to_look_around_loads_nothing_heavy(module, tmp_path):
    code = (
        f"import sys, {module}; heavy = {{'torch', 'transformers', 'recbole', 'sklearn', 'pandas', 'numpy'}}; "
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_recbole_is_left_as_it_was_installed():
    """No file of ours assigns into a module of RecBole's."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                root = target
                while isinstance(root, ast.Attribute | ast.Subscript):
                    root = root.value
                if isinstance(target, ast.Attribute) and isinstance(root, ast.Name):
                    assert root.id != "recbole", f"{name(path)}, line {node.lineno}"
