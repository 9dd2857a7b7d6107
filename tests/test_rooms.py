"""Both graphs name exactly the rooms of the library that decide a stage's result."""

from pathlib import Path

import grimp
import pytest
import yaml

from moco.runs.folder import decides_nothing

ROOT = Path(__file__).parents[1]
STARTED = {"pretrain": ["moco.training.loop"], "transfer": ["moco.transfer.trial"]}
"""What the processes run that a stage starts, which the stage itself need not import."""
SHOWN = {
    "check": {"checks", "duplicates", "survey", "report", "drawing"},
    "report": {"report", "explore", "drawing", "alarms", "verdicts"},
    "transfer_report": {"report", "drawing"},
}
"""Rooms that decide no training's result, but what these stages show."""


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("moco", "pipelines", cache_dir=None)


def stages() -> list[tuple[str, str, list[str]]]:
    """(file, module, code that it depends on) of each stage."""
    found = []
    for file in ("dvc.yaml", "transfer/graph.yaml"):
        for stage in yaml.safe_load((ROOT / file).read_text())["stages"].values():
            python, option, module, *_ = stage["cmd"].split()
            assert (python, option) == ("python", "-m")
            code = [dep for dep in map(str, stage["deps"]) if dep.startswith(("moco/", "pipelines/"))]
            found.append((file, module.removeprefix("pipelines."), code))
    return found


def decides(stage: str, module: str) -> bool:
    """Whether a module, such as moco.images.views, decides what a stage makes."""
    package, _, name = module.partition(".")
    if package == "pipelines":
        return name not in ("", "stage", "driver", "remote_tars")
    return bool(name) and (name.partition(".")[0] in SHOWN.get(stage, ()) or not decides_nothing(name))


def closure(imports: grimp.ImportGraph, stage: str) -> set[str]:
    """Modules that a stage imports, except those that decide no result and what they import."""
    left, found = [f"pipelines.{stage}", *STARTED.get(stage, [])], set[str]()
    while left:
        module = left.pop()
        if module not in found and decides(stage, module):
            found.add(module)
            left += imports.find_modules_directly_imported_by(module)
    return found


def file_of(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def within(path: str, dep: str) -> bool:
    return path == dep or path.startswith(f"{dep}/")


@pytest.mark.parametrize(("file", "stage", "deps"), stages())
def test_a_stage_depends_on_what_it_imports_and_on_no_other_code(imports, file, stage, deps):
    needed = {file_of(module) for module in closure(imports, stage)}
    assert {path for path in needed if not any(within(path, dep) for dep in deps)} == set(), f"add to {file}, {stage}"
    assert {dep for dep in deps if not any(within(path, dep) for path in needed)} == set(), f"not in {file}, {stage}"


@pytest.mark.parametrize(("file", "stage", "deps"), stages())
def test_a_stage_depends_on_nothing_that_decides_no_result(imports, file, stage, deps):
    ignored = (ROOT / ".dvcignore").read_text().splitlines()
    paths = {file_of(module) for module in imports.modules if not decides(stage, module)}
    seen = {path for path in paths if not any(within(f"/{path}", line) for line in ignored)}
    assert {path for path in seen if any(within(path, dep) for dep in deps)} == set()
