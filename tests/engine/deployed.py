"""A program that is deployed twice: `deployed.py STORE LEDGER CODE POLICY COMMAND`, with the code `old` or `new`."""

from __future__ import annotations

import sys
from pathlib import Path

from flujo import Flujo, Migrated, PipelineRegistry, Step, StoredRun, step
from flujo.errors import FlujoError
from flujo.state.backends.sqlite import SQLiteBackend

STORE, LEDGER, CODE, POLICY, COMMAND = sys.argv[1:]


def effect(name: str) -> None:
    with Path(LEDGER).open("a") as file:
        file.write(f"{name}\n")


@step
def price(order: str) -> int:
    effect("price")
    return len(order)


@step
def pack(answer: str) -> str:
    effect("pack")
    return f"{answer}, packed"


@step
def ship(answer: str) -> str:
    effect("ship")
    return f"shipped: {answer}"


gate = Step.human_in_the_loop("approve", message_for_user="Ship it?")
registry = PipelineRegistry()
if CODE in ("old", "both"):
    registry.register(price >> gate >> ship, name="orders", version="1.0.0", on_change=POLICY)
if CODE in ("new", "both"):
    registry.register(price >> gate >> pack >> ship, name="orders", version="2.0.0", on_change=POLICY)


@registry.migration("orders", "1.0.0", "2.0.0")
def packing(run: StoredRun) -> Migrated:
    return Migrated()


runner = Flujo(registry=registry, pipeline_name="orders", state_backend=SQLiteBackend(STORE))
try:
    if COMMAND == "start":
        result = runner.run("lamp", run_id="r")
    elif COMMAND == "unpark":
        result = runner.unpark("r")
    elif COMMAND == "look":
        result = runner.run("lamp", run_id="r")
    else:
        result = runner.resume("r", "yes")
except FlujoError as error:
    print(error.code, runner.backend.__class__.__name__)
else:
    print(result.status, result.output)
