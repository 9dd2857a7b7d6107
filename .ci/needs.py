"""Print what pyproject.toml needs, one a line: the library's packages, and those of some extras."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [package for name in sys.argv[1:] for package in project["optional-dependencies"][name]]
print(*project["dependencies"], *extras, sep="\n")
