"""dvc.yaml names every room of the library that decides a stage's result, and import-linter's rules hold."""

from pathlib import Path

import grimp
import pytest
import yaml

from moco.runs.folder import DECIDES_NOTHING

ROOT = Path(__file__).parents[1]
STARTED = {"pretrain": ["moco.training.loop"], "transfer": ["moco.transfer.trial"]}
"""What the processes run that a stage starts, which the stage itself need not import."""


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("moco", "pipelines", cache_dir=None)


def stages() -> list[tuple[str, str, list[str]]]:
    """(file, module, code that it depends on) of each stage."""
    found = []
    for file in ("dvc.yaml",):
        for stage in yaml.safe_load((ROOT / file).read_text())["stages"].values():
            command, deps = stage["cmd"].split(), [str(dep) for dep in stage["deps"]]
            assert command[:2] == ["python", "-m"]
            found.append(
                (file, " ".join(command[2:4]), [dep for dep in deps if dep.startswith(("moco/", "pipelines/"))])
            )
    return found


def closure(imports: grimp.ImportGraph, stage: str) -> set[str]:
    """Modules that a stage imports, wherever in its code, but for those that decide no result and what they import."""
    left, found = [f"pipelines.{stage}", *STARTED.get(stage, [])], set[str]()
    while left:
        module = left.pop()
        room = module.split(".")[1] if module.count(".") else ""
        if module in found or (room in DECIDES_NOTHING | {"stage", ""} and module != f"pipelines.{stage}"):
            continue
        found.add(module)
        left += imports.find_modules_directly_imported_by(module)
    return found


def file_of(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


@pytest.mark.parametrize(("file", "command", "deps"), stages())
def test_a_stage_depends_on_what_it_imports(imports, file, command, deps):
    for dep in deps:
        assert (ROOT / dep).exists(), f"{file}: {dep} is not there"
    needed = {file_of(module) for module in closure(imports, command.split()[0].removeprefix("pipelines."))}
    missing = {path for path in needed if not any(path == dep or path.startswith(f"{dep}/") for dep in deps)}
    assert missing == set(), f"{file}, {command}: these decide the result too; add them, or their rooms"


@pytest.mark.parametrize(("file", "command", "deps"), stages())
def test_a_stage_depends_on_no_room_that_decides_nothing(file, command, deps):
    rooms = {Path(dep).parts[1].removesuffix(".py") for dep in deps if dep.startswith("moco/")}
    allowed = {"report", "drawing", "alarms", "verdicts"} if "report" in command else set()
    assert rooms & DECIDES_NOTHING <= allowed
