"""Stores and registries, by the names that a command line gives them."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from flujo.commands.command import NotThere
from flujo.encryption import KEY_FILE_VARIABLE, Keys, keys_in
from flujo.errors import FlujoError
from flujo.registry import PipelineRegistry
from flujo.state.backends.file import FOLDERS, SUFFIX, FileBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend

# Short for `module:attribute`; the module is imported when the name is used, so the engine itself needs none of it.
SHORT_STORES = {"django": "runs.command_store:open_store"}
SHORT_REGISTRIES = {"django": "runs.command_store:registry"}
SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
STORE_HELP = (
    "an SQLite file, the folder of a file backend, django: for the database of the Django site that "
    "DJANGO_SETTINGS_MODULE names (django:ALIAS for another of its databases), or module:attribute"
)
_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def open_store(name: str, *, new: bool = False) -> StateBackend:
    """The backend of a store; with `new` a file or folder may be missing. Raises `NotThere`."""
    short, colon, rest = name.partition(":")
    if colon and short in SHORT_STORES:
        return _backend(_imported(SHORT_STORES[short])(*([rest] if rest else [])), name)
    path, keys = Path(name), _keys()
    _check_usable(path)
    if path.is_dir() or (new and not path.exists() and name.endswith("/")):
        return FileBackend(path, encryption=keys)
    if path.exists() or (new and path.suffix in SQLITE_SUFFIXES):
        return SQLiteBackend(path, encryption=keys)
    if _OBJECT.fullmatch(name):
        found = _imported(name)
        return _backend(found() if callable(found) else found, name)
    if new:
        raise NotThere(f"{name} does not exist. A new SQLite file is named *.db, a new folder with a slash at its end.")
    raise NotThere(f"{name} does not exist. Give {STORE_HELP}.")


def _check_usable(path: Path) -> None:
    """Raise `NotThere` for a file or folder that this user may not use, and for a folder of something else."""
    if not path.exists():
        return
    if not os.access(path, os.R_OK | os.W_OK):
        raise NotThere(f"{path} may not be read and written here. A store needs both, also to be looked at.")
    if path.is_dir():
        names = (entry.name for entry in path.iterdir())
        first = next(names, "")
        if first and not any(name.endswith(SUFFIX) or name in FOLDERS for name in (first, *names)):
            raise NotThere(f"{path} holds other things than runs: it is no folder of a file backend.")


def _keys() -> Keys | None:
    """The keys in the file that the environment names. Raises `NotThere` when it has none."""
    path = os.environ.get(KEY_FILE_VARIABLE)
    if not path:
        return None
    try:
        return Keys(*keys_in(path))
    except (OSError, TypeError, ValueError) as error:
        raise NotThere(f"{KEY_FILE_VARIABLE} names no file of keys: {error}") from error


def full_name(name: str) -> str:
    """The store's name as histories and tombstones keep it: a path in full, others as they were given."""
    path = Path(name)
    return str(path.resolve()) if path.exists() or (not _OBJECT.fullmatch(name) and ":" not in name) else name


def open_registry(name: str | None, store: str) -> PipelineRegistry | None:
    """The registry of this name; without one, that which belongs to the store, if it has one. Raises `NotThere`."""
    named = name or SHORT_REGISTRIES.get(store.partition(":")[0] if ":" in store else "")
    if named is None:
        return None
    found = _imported(named)
    if not isinstance(found, PipelineRegistry):
        raise NotThere(f"{named} is no PipelineRegistry but a {type(found).__name__}.")
    return found


def _backend(found: Any, name: str) -> StateBackend:
    if not isinstance(found, StateBackend):
        raise NotThere(f"{name} gives no StateBackend but a {type(found).__name__}.")
    return found


def _imported(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise NotThere(f"{name} is no module:attribute, such as shop.pipelines:registry.")
    try:
        return getattr(import_module(module), attribute)
    except FlujoError:
        raise
    except Exception as error:  # whatever goes wrong in a module of the user's is to be told in a sentence
        raise NotThere(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
