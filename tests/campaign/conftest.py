"""What the campaigns share: their length and their seed. `make campaign` sets both; the suite takes a slice."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest

from tests.engine.conftest import flush_by_deletion

__all__ = ["flush_by_deletion"]  # fixtures of the engine's tests that the campaigns need, too
SLICE_SEED = 20_300_101


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("campaign")
    group.addoption("--campaign-seconds", type=float, default=None, help="the length of each storm; else a slice")
    group.addoption("--campaign-seed", type=int, default=SLICE_SEED, help="what the campaign's chances come from")


def pytest_report_header(config: pytest.Config) -> str:
    seconds = config.getoption("--campaign-seconds", None)
    return f"campaign: {seconds or 'slice'}, seed {config.getoption('--campaign-seed', SLICE_SEED)}"


@dataclass(frozen=True)
class Campaign:
    """`seconds` is None for the slice that the suite runs: few examples, always the same ones."""

    seconds: float | None
    seed: int

    @property
    def whole(self) -> bool:
        return self.seconds is not None

    def chances(self, name: str) -> Random:
        """The chances of the campaign of this name."""
        return Random(f"{self.seed} {name}")


@pytest.fixture
def campaign(pytestconfig: pytest.Config) -> Campaign:
    return Campaign(
        pytestconfig.getoption("--campaign-seconds", None), pytestconfig.getoption("--campaign-seed", SLICE_SEED)
    )
