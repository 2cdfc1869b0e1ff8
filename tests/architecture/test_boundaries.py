"""Imports go one way: the site knows the console, the console knows the engine, the engine knows pydantic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, files, imports, python, reaches, relative, tree

STANDARD_AND_PYDANTIC = sys.stdlib_module_names | {"flujo", "pydantic", "pydantic_core", "typing_extensions"}
# What an extra brings, imported where it is used and only when it is there.
OPTIONAL = {"engine/flujo/commands/output.py": {"rich"}, "engine/flujo/encryption.py": {"cryptography"}}
FOGGY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc", "views"}
ROOT_ENTRIES = {
    ".ci", ".gitignore", "bench", "docs", "engine", "flujo_site", "runs", "static", "templates", "tests", "manage.py",
    "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md", "pyproject.toml",
    "requirements.lock", "requirements-dev.lock",
}  # fmt: skip


def test_the_engine_imports_the_standard_library_and_pydantic_only() -> None:
    offenders = {
        relative(path): sorted(foreign)
        for path in python("engine")
        if (foreign := _packages(path) - STANDARD_AND_PYDANTIC - OPTIONAL.get(relative(path), set()))
    }
    assert offenders == {}


def _packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_the_engine_loads_without_django() -> None:
    program = "import sys, flujo; sys.exit(any(name.split('.')[0] in {'django', 'channels'} for name in sys.modules))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT / "engine", check=True)


def test_the_console_never_imports_the_site() -> None:
    offenders = {relative(path): sorted(found) for path in python("runs") if (found := reaches(path, "flujo_site"))}
    assert offenders == {}


def test_nothing_imports_the_engine_under_a_second_name() -> None:
    everything = python("engine", "runs", "flujo_site", "tests", "bench")
    offenders = {relative(path): sorted(found) for path in everything if (found := reaches(path, "engine"))}
    assert offenders == {}


def test_the_modules_of_the_engine_import_one_another_in_one_direction() -> None:
    """Also where an import stands inside a function or is for type checkers alone."""
    modules = {relative(path)[len("engine/") : -len(".py")].replace("/", "."): path for path in python("engine")}
    paths = {name.removesuffix(".__init__"): path for name, path in modules.items() if name != "flujo.__init__"}
    left = {name: imports(path) & paths.keys() - {name} for name, path in paths.items()}
    while ground := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ground:
            del left[name]
    assert sorted(left) == []


@pytest.mark.parametrize("layer", ["services", "queries", "forms"])
def test_below_the_views_nothing_imports_a_view(layer: str) -> None:
    offenders = {
        relative(path): sorted(found) for path in python(f"runs/{layer}") if (found := reaches(path, "runs.views"))
    }
    assert offenders == {}


def test_shipped_code_never_imports_the_tests() -> None:
    shipped = python("engine", "runs", "flujo_site")
    offenders = {relative(path): sorted(found) for path in shipped if (found := reaches(path, "tests", "pytest"))}
    assert offenders == {}


def test_module_names_say_what_they_hold() -> None:
    shipped = python("engine", "runs", "flujo_site")
    assert [relative(path) for path in shipped if path.stem in FOGGY_NAMES] == []


def test_every_module_says_in_its_first_line_what_it_is() -> None:
    import ast

    shipped = [path for path in python("engine", "runs", "flujo_site") if path.read_text().strip()]
    assert [relative(path) for path in shipped if not ast.get_docstring(tree(path))] == []


def test_the_root_holds_what_a_stranger_expects() -> None:
    found = {relative(path).split("/")[0] for path in files(".")}
    assert found - ROOT_ENTRIES == set()
    assert ROOT_ENTRIES - found - {"bench"} == set()
