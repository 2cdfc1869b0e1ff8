"""Bug: an answer to an earlier question, or to another text, counts for the one that is open now."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from flujo.transitions import operator


def plant(patch: pytest.MonkeyPatch) -> None:
    check_open = operator._check_open

    def trusting(task: Any, answer: Any) -> None:
        check_open(task, dataclasses.replace(answer, generation=task.generation, digest=task.digest))

    patch.setattr(operator, "_check_open", trusting)
