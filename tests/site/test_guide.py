"""The guide says what the engine does: its programs print what the pages show, its tables are the code's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flujo.pipeline import Node
from flujo.status import LEGAL_MOVES
from flujo.step import Step

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
PROGRAMS = [name for name in PAGES if "```python" in (DOCS / name).read_text()]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def defined_tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found.update(re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_examples_of_a_page_print_what_the_page_shows(name: str, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text("\n".join(blocks(name, "python")))
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT / "engine"), str(ROOT)])}
    result = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=path, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.stderr == ""
    assert result.stdout == "".join(blocks(name, "text"))


def test_lifecycle_table_is_the_table_of_legal_moves() -> None:
    lines = re.findall(r"^\| `(\w+)` \| (.+) \|$", (DOCS / "lifecycle.md").read_text(), re.MULTILINE)
    told = {before: set(re.findall(r"`(\w+)`", after)) for before, after in lines}
    assert told == {str(before): {str(status) for status in after} for before, after in LEGAL_MOVES.items()}


def test_lifecycle_diagram_draws_legal_moves_only_and_each_of_them() -> None:
    (diagram,) = blocks("lifecycle.md", "mermaid")
    drawn = set(re.findall(r"^\s*(\w+) --> (\w+)", diagram, re.MULTILINE))
    legal = {(str(before), str(status)) for before, after in LEGAL_MOVES.items() for status in after}
    assert drawn - legal == set()
    assert legal - drawn == {("running", "running")}  # the page says in words what it is


def test_every_test_that_holds_a_guarantee_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "guarantees.md").read_text()))
    assert len(named) > 20
    assert named - defined_tests() == set()


def test_every_way_to_make_a_step_has_an_example() -> None:
    made = {name for name, value in vars(Step).items() if isinstance(value, staticmethod)}
    code = "\n".join(blocks("pipelines.md", "python"))
    assert {name for name in made if f"Step.{name}(" not in code} == set()
    assert ".as_step(" in code


def test_every_kind_of_step_can_be_reached_from_the_package() -> None:
    kinds = {kind.kind for kind in _below(Node) if "kind" in vars(kind)}
    assert kinds == {
        "step", "human_task", "pipeline", "parallel", "map", "branch", "loop", "fallback", "timer", "signal", "child"
    }  # fmt: skip


def _below(base: type[Node]) -> set[type[Node]]:
    return {base}.union(*(_below(kind) for kind in base.__subclasses__())) - {Node}


@pytest.mark.parametrize("name", PAGES)
def test_links_of_a_page_lead_to_files_that_exist(name: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (DOCS / name).read_text())
    assert [link for link in links if not (DOCS / link).exists()] == []


def test_index_names_every_page() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text()))
    assert listed == set(PAGES) - {"README.md"}
