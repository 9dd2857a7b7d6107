"""The compiled part of the views under sanitizers of addresses and undefined behavior."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from small_material import ROOT, copy_project

FLAGS = (
    "-std=c++17",
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)


def library(name: str) -> Path:
    found = subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"{name} is not installed")
    return Path(found)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_neither_its_tests_nor_damaged_images_reach_beyond_its_memory(tmp_path):
    copy_project(tmp_path)
    preload = " ".join(map(str, (library("libasan.so"), library("libubsan.so"))))
    built = tmp_path / f"moco/images/_fused_views{sysconfig.get_config_var('EXT_SUFFIX')}"
    source = str(tmp_path / "moco/images/fused_views.cpp")
    subprocess.run(["g++", "-shared", "-fPIC", *FLAGS, source, "-o", str(built), "-ljpeg"], check=True)
    env = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'tests'}",
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0,allocator_may_return_null=1",
    }
    for words in (
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/moco/images/test_fused_views.py"],
        ["tests/fuzz.py", "views", "--inputs", "400"],
    ):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "runtime error" not in done.stderr
