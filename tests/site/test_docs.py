"""The documentation says what the code does: its examples run, its lists are complete, its words are used."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from flujo.status import AttemptOutcome, DecisionOutcome, EventKind, Outcome, RunStatus, TaskStatus, Wait

from runs import display
from runs.checks import RULES
from runs.models import PipelineGrant, SiteEvent

ROOT = Path(__file__).resolve().parents[2]
STORE_CHECKS = ROOT / "runs" / "store_checks.py"


def read(name: str) -> str:
    return (ROOT / name).read_text()


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, heads apart."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line] for line in lines[2:]]


@pytest.fixture(scope="module")
def glossary() -> str:
    return read("docs/glossary.md")


def test_the_example_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    program = tmp_path / "example.py"
    program.write_text(example)
    path = {"PYTHONPATH": str(ROOT / "engine")}
    result = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=path, capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    assert result.stdout == "completed yes\n"


def test_the_commands_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", read("README.md") + read("CONTRIBUTING.md"), re.MULTILINE))
    assert named - targets == set()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/configuration.md"])
def test_links_lead_to_files_that_exist(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", read(page))
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_each_status_of_a_run_is_in_the_glossary_with_its_badges(glossary: str) -> None:
    expected = {
        str(status): ", ".join(
            dict.fromkeys(badge.word for key, badge in display.RUN_BADGES.items() if key[0] == status)
        )
        for status in RunStatus
    }
    assert {value: badges for value, badges, _ in rows(section(glossary, "Statuses of a run"))} == expected


def test_each_wait_and_outcome_is_in_the_glossary_with_its_badge(glossary: str) -> None:
    waits = {str(wait): display.run_badge("paused", wait).word for wait in Wait}
    assert {value: badge for value, badge, _ in rows(section(glossary, "Waits"))} == waits
    outcomes = {str(key[2]): badge.word for key, badge in display.RUN_BADGES.items() if key[2] is not None}
    assert set(outcomes) == set(Outcome)
    assert {value: badge for value, badge, _ in rows(section(glossary, "Outcomes of a run"))} == outcomes


def test_every_other_state_is_in_the_glossary_with_its_badge(glossary: str) -> None:
    kinds: dict[str, type[StrEnum]] = {"human task": TaskStatus, "decision": DecisionOutcome, "attempt": AttemptOutcome}
    expected = {(str(value), kind, display.state_badge(value).word) for kind, words in kinds.items() for value in words}
    assert {(value, kind, badge) for value, kind, badge, _ in rows(section(glossary, "Other states"))} == expected


def test_every_audit_event_is_in_the_glossary(glossary: str) -> None:
    assert sorted(kind for kind, _ in rows(section(glossary, "Audit events"))) == sorted(EventKind)
    assert {kind for kind, _ in rows(section(glossary, "Events of the site"))} == {kind for kind, _ in SiteEvent.KINDS}


def test_every_grant_and_check_is_in_the_security_page() -> None:
    security = read("SECURITY.md")
    grants = [grant for grant, _ in rows(section(security, "Who may do what"))]
    assert grants[:-1] == PipelineGrant.VERBS
    ids = [f"flujo.W{rule.number:03}" for rule in RULES] + sorted(
        set(re.findall(r"flujo\.[EW]\d{3}", STORE_CHECKS.read_text())), key=lambda check: check[-3:]
    )
    assert [check for check, _ in rows(section(security, "What `check --deploy` adds to Django's"))] == ids


def patterns(resolver: Any, prefix: str = "/") -> Iterator[str]:
    """Every address of the site, with something plausible in each blank."""
    for entry in resolver.url_patterns:
        text = re.sub(r"<int:\w+>|<\w+>", "1", re.sub(r"<(?:str|path|slug):\w+>", "x", str(entry.pattern)))
        address = prefix + re.sub(r"\(\?P<\w+>[^)]*\)|[\^$]", "", text)
        if isinstance(entry, URLResolver):
            yield from patterns(entry, address)
        elif isinstance(entry, URLPattern):
            yield address


@pytest.mark.django_db
def test_the_addresses_without_sign_in_are_exactly_the_documented_ones(client: Client) -> None:
    documented = set(
        re.findall(r"^- `(/\S*)`$", section(read("SECURITY.md"), "Addresses that need no sign-in"), re.MULTILINE)
    )
    addresses = set(patterns(get_resolver()))
    assert len(addresses) > 30
    open_to_all = set()
    for address in addresses:
        for answer in (client.get(address), client.post(address)):
            location = answer.headers.get("Location", "")
            if not (answer.status_code == 302 and ("/sign-in/?next=" in location or "/admin/login/?next=" in location)):
                open_to_all.add(address)
    assert open_to_all == documented - {"/static/"}


def test_decisions_are_numbered_in_a_row() -> None:
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for number, path in enumerate(decisions, 1):
        assert path.read_text().startswith(f"# {number}. ")
