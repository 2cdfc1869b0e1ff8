"""A program that the process tests start, kill and freeze: `worker.py STORE FOLDER ACTION [now]`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from flujo import Flujo, PipelineRegistry, StepContext, step
from flujo.batch import Batch, RunView
from flujo.errors import Fenced, RunCancelled, RunIsLeased
from flujo.state.backends.file import FileBackend
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend
from flujo.status import EventKind
from flujo.verify import verify_store


def main(store: str, folder: Path, action: str, *more: str) -> None:
    backend = open_store(store, folder)
    actions: dict[str, Any] = {
        "hold": lambda: asyncio.run(hold(backend, *more)),
        "long": lambda: asyncio.run(long(backend)),
        "cancel": lambda: print(runner_of(long_step(), backend).cancel("r").status),
        "share": lambda: asyncio.run(share(backend, folder)),
        "verify": lambda: asyncio.run(verify(backend)),
        "forget": lambda: runner_of(one_step(folder), backend).run("r", run_id="r"),
        "fork": lambda: fork(backend, folder),
        "outlive": lambda: outlive(backend, folder),
        "bequeath": lambda: bequeath(backend, folder),
        "stuck": lambda: stuck(backend),
    }
    actions[action]()


def open_store(store: str, folder: Path) -> StateBackend:
    if store == "django":
        import django

        os.environ["DJANGO_SETTINGS_MODULE"] = "flujo_site.settings"
        django.setup()
        from runs.state_backend import DjangoBackend

        return DjangoBackend()
    if store == "memory":
        return InMemoryBackend()
    return FileBackend(folder / "runs") if store == "file" else SQLiteBackend(folder / "runs.db")


def write(folder: Path, line: str) -> None:
    """One line in the outside world, on disk when this returns."""
    descriptor = os.open(folder / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.fsync(descriptor)
    os.close(descriptor)


def runner_of(pipeline: Any, backend: StateBackend, **options: Any) -> Flujo:
    registry = PipelineRegistry()
    registry.register(pipeline, name="demo", version="1.0.0")
    return Flujo(registry=registry, pipeline_name="demo", state_backend=backend, **options)


async def hold(backend: StateBackend, now: str = "") -> None:
    """Hold the run in its only step; with `now`, take it over and finish it at once."""

    @step
    async def only(value: int) -> int:
        if not now:
            print("holding", flush=True)
            await asyncio.sleep(3)
        return value + (1 if now else 0)

    runner = runner_of(only, backend, lease=timedelta(seconds=1))
    try:
        result = await runner.run_async(1, run_id="r")
        print(result.status, "output", result.output)
    except Fenced as fenced:
        print("Fenced", fenced)


def long_step() -> Any:
    @step
    async def only(value: int) -> int:
        print("begun", flush=True)
        await asyncio.sleep(3_600)
        return value

    return only


async def long(backend: StateBackend) -> None:
    """Be in a step for an hour, under a lease of the usual length."""
    try:
        print((await runner_of(long_step(), backend).run_async(1, run_id="r")).status)
    except RunCancelled:
        print("was cancelled before")


def one_step(folder: Path) -> Any:
    @step
    def only(value: str, ctx: StepContext) -> str:
        write(folder, f"effect {ctx.run_id}/only")
        return value

    return only


async def share(backend: StateBackend, folder: Path) -> None:
    runner = runner_of(one_step(folder), backend)
    for number in range(10):
        while True:
            try:
                await runner.run_async("x", run_id=f"run-{number}")
            except RunIsLeased:
                await asyncio.sleep(0.01)
            else:
                break


async def verify(backend: StateBackend) -> None:
    runs, events = await verify_store(backend)
    claims = [event.fence for event in await backend.events("r") if event.kind is EventKind.RUN_CLAIMED]
    print("runs", runs, "events", events, "claims", len(set(claims)), "in order", claims == sorted(claims))


def fork(backend: StateBackend, folder: Path) -> None:
    runner = runner_of(one_step(folder), backend)
    print("parent", runner.run("x", run_id="parent").status, flush=True)
    child = os.fork()
    if child == 0:
        print("child", runner.run("x", run_id="child").status, flush=True)
        os._exit(0)
    os.waitpid(child, 0)


def outlive(backend: StateBackend, folder: Path) -> None:
    """A child that goes on after its parent has closed the store, and is killed then."""
    runner = runner_of(one_step(folder), backend)
    runner.run("x", run_id="parent")
    (told, tell), (closed, close) = os.pipe(), os.pipe()
    if os.fork() == 0:
        runner.run("x", run_id="before")
        os.write(tell, b".")
        os.read(closed, 1)
        print("after", runner.run("x", run_id="after").status, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    os.read(told, 1)
    asyncio.run(backend.close())
    os.write(close, b".")
    os.wait()


def bequeath(backend: StateBackend, folder: Path) -> None:
    """Fork in the midst of a write, and be killed in it: the child uses the same run, when its parent is gone."""
    runner = runner_of(one_step(folder), backend)
    until_killed, alive = os.pipe()

    def fork_here() -> None:
        if os.fork() == 0:
            os.close(alive)
            os.read(until_killed, 1)
            print("child", runner.run("x", run_id="r").status, flush=True)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    def transition(_view: RunView) -> Batch:
        thread = threading.Thread(target=fork_here)
        thread.start()
        thread.join()
        raise AssertionError

    asyncio.run(backend.transact("r", transition))


def stuck(backend: StateBackend) -> None:
    @step(timeout=timedelta(seconds=0.2))
    def forever(value: int) -> int:
        time.sleep(3_600)
        return value

    result = runner_of(forever, backend).run(1)
    print(result.status, (result.error or "").partition(":")[0])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
