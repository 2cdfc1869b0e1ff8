"""How large a module, function, template or stylesheet may become, and how often a linter may be told to be quiet."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.architecture.sources import ROOT, files, python, relative, tree

MODULE_LINES = 500
VIEW_MODULE_LINES = 150
FUNCTION_LINES = 60
TEMPLATE_LINES = 120
STYLESHEET_LINES = 200
SILENCED = 15

SILENCER = re.compile(
    r"#\s*(?:noqa(?::\s*[A-Z0-9, ]+)?|type:\s*ignore(?:\[[\w, -]+\])?|pragma:\s*no cover)(?P<rest>.*)"
)
BLIND = {"Exception", "BaseException"}
# The seams where code of others runs, or where one failure must not end the rest: only these may swallow any error.
SEAMS = {
    "engine/flujo/attempts.py",
    "engine/flujo/failure.py",
    "engine/flujo/state/backends/sqlite_writer.py",
    "engine/flujo/step_log.py",
    "engine/flujo/threads.py",
    "engine/flujo/walk.py",
    "runs/dispatch.py",
    "runs/live/feed.py",
    "runs/step_transaction.py",
    "runs/sweeper.py",
    "runs/worker.py",
}


def over(paths: Iterable[Path], limit: int) -> dict[str, int]:
    """The files with more lines than the limit."""
    return {relative(path): count for path in paths if (count := len(path.read_text().splitlines())) > limit}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function, its docstring and decorators apart."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return total
    docstring = function.body[0]
    return total - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def test_modules_are_short_enough() -> None:
    assert over(python("engine", "runs", "flujo_site", "tests", "bench"), MODULE_LINES) == {}


def test_view_modules_are_short_enough() -> None:
    assert over(python("runs/views"), VIEW_MODULE_LINES) == {}


def test_functions_are_short_enough() -> None:
    offenders = {
        f"{relative(path)}:{function.lineno} {function.name}": length(function)
        for path in python("engine", "runs", "flujo_site", "tests", "bench")
        for function in functions(path)
        if length(function) > FUNCTION_LINES
    }
    assert offenders == {}


def test_templates_are_short_enough() -> None:
    assert over(files("templates/*.html"), TEMPLATE_LINES) == {}


def test_stylesheets_are_short_enough() -> None:
    assert over(files("static/css/components/*.css"), STYLESHEET_LINES) == {}


def test_linters_are_silenced_seldom_and_with_a_reason() -> None:
    silenced = [
        (f"{relative(path)}:{number}", match["rest"].strip())
        for path in python("engine", "runs", "flujo_site", "tests", "bench")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := SILENCER.search(line))
    ]
    assert [where for where, rest in silenced if not rest.lstrip("# ")] == []
    assert len(silenced) <= SILENCED, "\n".join(where for where, _ in silenced)


def test_errors_are_swallowed_by_name_except_at_the_named_seams() -> None:
    """Outside the seams a blind `except` may only clean up and raise again."""
    blind = [
        f"{relative(path)}:{node.lineno}"
        for path in python("engine", "runs", "flujo_site")
        if relative(path) not in SEAMS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and caught(node) & BLIND and not raises(node)
    ]
    assert blind == []


def raises(handler: ast.ExceptHandler) -> bool:
    """Whether the handler raises: the same error again, or one of ours in its place."""
    return any(isinstance(node, ast.Raise) for node in ast.walk(handler))


def caught(handler: ast.ExceptHandler) -> set[str]:
    """The names an `except` catches; a bare one catches everything."""
    if handler.type is None:
        return {"BaseException"}
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}


def test_budgets_see_the_repository() -> None:
    """A pattern that matches nothing would pass everything."""
    assert len(list(python("engine", "runs", "flujo_site"))) > 50
    assert len(files("templates/*.html")) > 10
    assert len(files("static/css/components/*.css")) > 5
    assert (ROOT / "pyproject.toml").exists()
