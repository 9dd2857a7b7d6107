"""Change the library in one small way at a time, and see whether its tests notice. Run by hand.

    python tests/mutate.py moco/permutation.py moco/images/plan.py --sample 40
    python tests/mutate.py moco/images/views.py --lines 50-80 --tests tests/moco/images

A mutant is one file with one operator swapped, one constant off by one, one condition negated or
one value not returned. Each is tried in a copy of the working tree, against the tests given or
those of the
module: files in the mirroring folder whose names hold the module's name, else all of that folder.
It is killed if a test fails or takes far too long. A survivor is either a missing test or a change
that changes nothing (an equivalent mutant); only a reader can tell which.
"""

import argparse
import ast
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from small_material import ROOT, copy_project

BOTH_WAYS = "Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn, And Or, Add Sub, Mult FloorDiv, LShift RShift, BitAnd BitOr"
SWAPS = {"Div": "Mult", "Mod": "Mult", "Pow": "Mult", "BitXor": "BitOr", "MatMult": "Add"}
for one, other in (pair.split() for pair in BOTH_WAYS.split(", ")):
    SWAPS |= {one: other, other: one}
SKIPPED = ("annotation", "returns", "decorator_list", "bases")  # fields that say nothing about what is computed
Edit = tuple[int, str, Callable[[], None]]
"""Line, what changes, and the function that changes the tree."""


def edits(node: ast.AST, line: int = 0) -> Iterator[Edit]:
    """All mutants of a tree, in the order of the source."""
    line = getattr(node, "lineno", line)
    for field, value in ast.iter_fields(node):
        if field in SKIPPED:
            continue
        for place, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                put = partial(value.__setitem__, place) if isinstance(value, list) else partial(setattr, node, field)
                for what, new in replacements(node, field, child):
                    yield getattr(child, "lineno", line), what, partial(put, new)
                yield from edits(child, line)


def replacements(parent: ast.AST, field: str, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand where a node stands."""
    kind = type(node).__name__
    if kind in SWAPS:
        yield f"{kind} -> {SWAPS[kind]}", getattr(ast, SWAPS[kind])()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        for other in (node.value + 1, node.value - 1):
            yield f"{node.value} -> {other}", ast.Constant(other)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not removed", node.operand
    elif field == "test" and not isinstance(node, ast.Compare | ast.BoolOp):
        yield "condition negated", ast.UnaryOp(ast.Not(), node)
    elif field == "value" and isinstance(parent, ast.Return) and ast.unparse(node) != "None":
        yield "returns None", ast.Constant(None)


def tests_of(module: Path) -> list[str]:
    """The test files that mirror a module, or else their folder."""
    folder = Path("tests") / module.parent
    return [str(file) for file in sorted(folder.glob("test_*.py")) if module.stem in file.stem] or [str(folder)]


def preload(copy: Path, module: Path, tests: list[str]) -> None:
    """Import what a module and its tests import from elsewhere, once: mutants run in forks."""
    files = [
        copy / module,
        *(file for name in tests for file in (copy / name).rglob("*.py")),
        *map(copy.joinpath, tests),
    ]
    for node in (node for file in files if file.is_file() for node in ast.walk(ast.parse(file.read_text()))):
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        for name in [node.module] if isinstance(node, ast.ImportFrom) else names:
            if name and not (copy / name.split(".")[0]).is_dir():
                with suppress(ImportError):
                    importlib.import_module(name)
    for name, found in list(sys.modules.items()):
        file = Path(getattr(found, "__file__", None) or "/")
        if file.is_relative_to(ROOT) and ".venv" not in file.parts and name != "__main__":
            del sys.modules[name]


def passes(copy: Path, tests: list[str], seconds: float) -> bool:
    """Whether tests pass in a copy of the project, within a time."""
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        sys.path[0] = str(copy)
        sys.dont_write_bytecode = True
        for stream in (1, 2):
            os.dup2(os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        os._exit(pytest.main(["-x", "-q", "-p", "pytest_timeout", "-p", "no:cacheprovider", *tests]))
    deadline = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what its tests have left behind, too
    if not ended[0]:
        os.waitpid(child, 0)
    return ended == (child, 0)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("modules", nargs="+", type=Path, help="from the project's folder")
    options.add_argument("--tests", nargs="+", help="files or folders; the default is what mirrors each module")
    options.add_argument("--sample", type=int, default=10**9, help="mutants of each module")
    options.add_argument("--seed", type=int, default=0, help="of the sample")
    options.add_argument("--lines", help="FIRST-LAST: only mutants of these lines")
    given = options.parse_args()
    first, _, last = (given.lines or f"0-{10**9}").partition("-")
    results: list[bool] = []
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        copy_project(copy)
        for compiled in ROOT.glob("moco/images/*.so"):
            shutil.copy2(compiled, copy / compiled.relative_to(ROOT))
        for module in given.modules:
            source, tests = (ROOT / module).read_text(), given.tests or tests_of(module)
            preload(copy, module, tests)
            start = time.monotonic()
            if not passes(copy, tests, 3600):
                sys.exit(f"{' '.join(tests)}: fail without a mutant\n{(copy / 'output.txt').read_text()[-2000:]}")
            patience = 20 + 4 * (time.monotonic() - start)
            count = len(list(edits(ast.parse(source))))
            for number in sorted(random.Random(given.seed).sample(range(count), min(count, given.sample))):
                tree = ast.parse(source)
                line, what, edit = list(edits(tree))[number]
                if int(first) <= line <= int(last or first):
                    edit()
                    (copy / module).write_text(ast.unparse(ast.fix_missing_locations(tree)))
                    results.append(not passes(copy, tests, patience))
                    verdict, text = "killed" if results[-1] else "survived", source.splitlines()[line - 1].strip()
                    print(f"{verdict}: {module}:{line}: {what}: {text}", flush=True)
            shutil.copy2(ROOT / module, copy / module)
    print(f"{sum(results)} of {len(results)} mutants killed ({sum(results) / max(len(results), 1):.1%})")


if __name__ == "__main__":
    main()
