"""How the campaigns' programs open a store by its name and its place, and plant a bug in it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend

ORM = ("django", "postgres")
Opens = Callable[[], StateBackend]


def opener(store: str, place: str) -> Opens:
    """What opens the store: files or SQLite in a folder, or the ORM, on SQLite or on the PostgreSQL at an address."""
    if store in ORM:
        os.environ.update(FLUJO_DATABASE_URL=place if store == "postgres" else "")
        os.environ.update(DJANGO_SETTINGS_MODULE="flujo_site.settings")
        import django

        django.setup()
        from runs.state_backend import DjangoBackend

        return DjangoBackend
    folder = Path(place)
    return (lambda: FileBackend(folder / "runs")) if store == "file" else (lambda: SQLiteBackend(folder / "runs.db"))


def make_tables(store: str) -> None:
    """What has to be done once, before the first process opens the store."""
    if store in ORM:
        from django.core.management import call_command

        call_command("migrate", verbosity=0)


def plant(name: str) -> None:
    """Plant a bug in this process for good."""
    if name:
        importlib.import_module(f"tests.campaign.plants.{name}").plant(pytest.MonkeyPatch())
