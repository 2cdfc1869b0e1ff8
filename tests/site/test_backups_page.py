"""The shell commands of the page about backups do what it says; its Python runs with that of the other pages."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flujo.state.backends.file import FileBackend
from flujo.verify import verify_store

from tests import services
from tests.engine.making import Ledger, order_pipeline, runner_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FOLDER, DUMP, LOAD = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "backups.md").read_text(), re.DOTALL)
START = """
import django
django.setup()
from runs.state_backend import DjangoBackend, close_store_threads
from tests.engine.making import Ledger, order_pipeline, runner_of
print(runner_of(order_pipeline(Ledger()), DjangoBackend()).run("lamp", run_id="r").status)
close_store_threads()
"""


def shell(commands: str, folder: Path, **environment: str) -> str:
    given = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "engine"), str(ROOT)]), **environment}
    commands = commands.replace("python manage.py", f"{sys.executable} {ROOT / 'manage.py'}")
    done = subprocess.run(
        ["sh", "-euc", commands], cwd=folder, env=given, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_folder_that_was_copied_as_the_page_says_verifies_and_goes_on(tmp_path: Path) -> None:
    runner = runner_of(order_pipeline(Ledger()), FileBackend(tmp_path / "runs"))
    runner.run("lamp" * 50_000, run_id="r")

    shell(FOLDER, tmp_path)

    copy = FileBackend(tmp_path / "monday")
    assert asyncio.run(verify_store(copy))[0] == 1
    assert runner_of(order_pipeline(Ledger()), copy).resume("r", "yes").output == "SHIPPED: YES"


@pytest.mark.services
def test_dump_that_is_loaded_as_the_page_says_is_taken_up(
    postgres_url: str, postgres_server: services.Server, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    site = {"FLUJO_DATA": str(data), "FLUJO_DEBUG": "1", "DJANGO_SETTINGS_MODULE": "flujo_site.settings"}
    shell("python manage.py migrate --verbosity 0", tmp_path, FLUJO_DATABASE_URL=postgres_url, **site)
    start = f"{sys.executable} -c '{START}'"
    assert shell(start, tmp_path, FLUJO_DATABASE_URL=postgres_url, **site) == "paused\n"

    shell(DUMP, tmp_path, FLUJO_DATABASE_URL=postgres_url, **site)
    empty = services.new_database(postgres_server)
    said = shell(LOAD, tmp_path, FLUJO_DATABASE_URL=empty, **site)

    assert said.splitlines()[-1] == "1 questions are asked anew, 0 leases are ended."
    verified = shell("python manage.py verify_audit", tmp_path, FLUJO_DATABASE_URL=empty, **site)
    assert "runs: intact, 7 events of 1 runs" in verified
    assert (tmp_path / "monday-data").is_dir()
