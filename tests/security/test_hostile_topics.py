"""Topics no page of ours asks for: the socket calls them malformed, and goes on."""

from __future__ import annotations

import pytest

from runs.live.consumer import _topics_asked


@pytest.mark.parametrize(
    "text",
    [
        r'{"sub": ["run:\ud800"]}',
        r'{"sub": ["run:a\u0000b"]}',
        '{"sub": [' + "9" * 5000 + "]}",
        "[" * 60_000,
        '{"sub": [1]}',
    ],
    ids=["half a surrogate pair", "nul", "digits", "deep", "number"],
)
def test_topic_that_no_database_could_look_up_is_malformed(text: str) -> None:
    assert _topics_asked(text) is None


def test_topic_of_any_run_is_understood() -> None:
    assert _topics_asked('{"sub": ["run:Grün-1", "runs", "runs"]}') == ["run:Grün-1", "runs"]
