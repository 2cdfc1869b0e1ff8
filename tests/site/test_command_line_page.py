"""The page about the command line shows what the commands print, and names each of them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from flujo.commands import COMMANDS
from flujo.commands.command import Exit

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text()
ENVIRONMENT = {"PYTHONPATH": str(ROOT / "engine"), "PATH": "/usr/bin:/bin"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def shown() -> list[tuple[str, str]]:
    """Each command of the page, and what it prints there."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def plain(text: str, folder: Path) -> str:
    """The text with the page's moment, folder and number of columns."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2026-03-02 09:00:00", text.replace(str(folder), "/srv/shop"))
    return re.sub(r"version \d+ of \d+", "version 1172 of 1172", text)


def test_commands_of_the_page_print_what_it_shows(tmp_path: Path) -> None:
    (module,) = blocks("python")
    (tmp_path / "shop.py").write_text(module)
    subprocess.run([sys.executable, "shop.py"], cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=60)
    for command, expected in shown():
        program, *arguments = shlex.split(command)
        assert program == "python"
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert plain(done.stdout + done.stderr, tmp_path) == expected, command
    assert len(shown()) > 10


def test_every_command_and_exit_code_is_on_the_page() -> None:
    assert {command.name for command in COMMANDS if f"`{command.name}`" not in PAGE} == set()
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert codes == {*map(int, Exit), 130, 141}
