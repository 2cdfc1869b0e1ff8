"""The Django project. A bare checkout finds the engine here; an installed one already has it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "engine"))
