"""The wheel in a project of somebody else's: the page that explains it is followed to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "your-own-project.md"
PROGRAM = """
import re
import time
import django
django.setup()
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import Client
import flujo, runs
from runs.models import HumanTask, Run
from runs.worker import Worker

assert all("site-packages-of-the-test" in module.__file__ for module in (flujo, runs))
anonymous = Client(SERVER_NAME="localhost")
assert anonymous.get("/flujo/runs/")["Location"] == "/admin/login/?next=/flujo/runs/"
assert anonymous.get("/flujo/healthz").status_code == 200

client = Client(SERVER_NAME="localhost")
client.force_login(User.objects.create_superuser("ana"))
for page in ("inbox/", "runs/", "pipelines/", "pipelines/order/", "pipelines/order/start/", "audit/", "state/"):
    answer = client.get(f"/flujo/{page}")
    assert answer.status_code == 200, page
    for style in set(re.findall(r'(?:href|src)="/static/([^"]+)"', answer.content.decode())):
        assert finders.find(style), style
assert 'action="/admin/logout/"' in answer.content.decode()

def work():
    worker = Worker()
    worker.start()
    deadline = time.monotonic() + 20
    while Run.objects.get().status in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert worker.stop()

assert client.post("/flujo/pipelines/order/start/", {"f-value": "lamp"}).status_code == 303
work()
task = HumanTask.objects.get()
page = client.get(task.get_absolute_url()).content.decode()
hidden = dict(re.findall(r'type="hidden" name="(\\w+)" value="([^"]*)"', page))
answer = client.post(f"{task.get_absolute_url()}decide/", {**hidden, "outcome": "approved"})
assert answer.status_code == 303, answer.content.decode()
work()
print(Run.objects.get().status)
"""


def run(folder: Path, *command: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FLUJO_", "DJANGO_", "PYTHON"))}
    env |= {"PYTHONPATH": f"{folder}:{folder.parent / 'site-packages-of-the-test'}"}
    if (folder / "manage.py").exists():
        env |= {"DJANGO_SETTINGS_MODULE": "shop.settings"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_console_runs_in_a_fresh_project_that_follows_its_page(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    run(ROOT, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    (wheel,) = tmp_path.glob("flujo-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site-packages-of-the-test")
    run(project, "-m", "django", "startproject", "shop", ".")
    run(project, "manage.py", "startapp", "orders")
    settings, urls, asgi, pipelines = re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, block in (("shop/settings.py", settings), ("shop/urls.py", urls), ("shop/asgi.py", asgi)):
        path = project / name
        path.write_text(f"{path.read_text()}\n{block}")
    (project / "orders" / "pipelines.py").write_text(pipelines)

    run(project, "manage.py", "migrate", "--verbosity", "0")
    assert run(project, "-c", PROGRAM) == "completed\n"
    served = "from channels.routing import get_default_application as get; print(type(get()).__name__)"
    assert run(project, "-c", f"import django; django.setup(); {served}") == "ProtocolTypeRouter\n"


def test_wheel_holds_every_page_of_the_console_and_none_of_the_site(tmp_path: Path) -> None:
    run(ROOT, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    (wheel,) = tmp_path.glob("flujo-*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("runs/templates/")}
    own = {"registration", "403.html", "403_csrf.html", "404.html", "409.html", "410.html", "500.html"}
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "templates").rglob("*.html")}
    assert held == {f"runs/{page}" for page in pages if page.split("/")[1] not in own}
