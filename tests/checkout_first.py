"""Put the package before `tests/moco`, which a script of this folder would take for it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
