"""docs/extending.md: each section's changes in a copy of the project pass the section's check."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_material import ROOT, copy_project

PAGE = (ROOT / "docs/extending.md").read_text()
BLOCK = re.compile(r"```(?P<kind>python|diff) (?P<place>\S+)\n(?P<code>.*?)```", re.DOTALL)


def sections() -> list[str]:
    return [section for section in PAGE.split("\n## ")[1:] if BLOCK.search(section)]


def apply(changes: str, path: Path) -> None:
    """Replace each run of `-` lines, which stands in the file once, by the `+` lines below it."""
    text = path.read_text()
    for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", changes, re.MULTILINE):
        before, after = (re.sub(r"^[-+]", "", lines, flags=re.MULTILINE) for lines in (old, new))
        assert ("\n" + text).count("\n" + before) == 1, f"{path.name}: {before}"
        text = ("\n" + text).replace("\n" + before, "\n" + after)[1:]
    path.write_text(text)


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.splitlines()[0])
def test_an_extension_touches_two_files_and_works(section: str, small_project: Path, tmp_path: Path) -> None:
    copy_project(tmp_path)
    (tmp_path / "params.yaml").write_bytes((small_project / "params.yaml").read_bytes())
    (tmp_path / "machine.yaml").write_text("processes: 1\nnum_workers: 0\n")
    (tmp_path / "data/shards").symlink_to(small_project / "data/shards")
    compiled = "moco/images/__pycache__"  # numba's results, which it keys by the files' times
    shutil.copytree(ROOT / compiled, tmp_path / compiled, ignore=shutil.ignore_patterns("*.pyc"))
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    touched, check = [], ""
    for block in BLOCK.finditer(section):
        if block["place"] == "check":
            check = block["code"]
            continue
        touched.append(block["place"])
        if block["kind"] == "diff":
            apply(block["code"], tmp_path / block["place"])
        else:
            assert not (tmp_path / block["place"]).exists()
            (tmp_path / block["place"]).write_text(block["code"])
    assert len(touched) == 2 and check
    env = os.environ | {"PYTHONPATH": str(tmp_path), "MOCO_TRACKING": "off"}
    done = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_kind_of_extension_has_its_section() -> None:
    kinds = ["An encoder", "An operation of the views", "A mechanism", "A source of images", "A stage", "A launcher"]
    assert [section.splitlines()[0] for section in sections()] == kinds
