"""Pipelines whose effects are counted outside the store, and whose steps can be held."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

from flujo import Step, StepContext, step
from pydantic import BaseModel, Field

from runs.registry import registry

FOLDER = Path(os.environ["FLUJO_E2E_FOLDER"])
LEDGER = FOLDER / "ledger"


class Order(BaseModel):
    """What is ordered."""

    item: str = Field(default="lamp", title="Item")
    quantity: int = Field(default=1, gt=0, title="Quantity")


class Approval(BaseModel):
    """What the person says."""

    amount: int = Field(gt=0, title="Amount")
    note: str = Field(default="", title="Note")


def effect(ctx: StepContext) -> None:
    """Write one line that a crash cannot take back, then wait while a file asks this step to."""
    line = f"{ctx.run_id} {ctx.path} {ctx.attempt}\n".encode()
    file = os.open(LEDGER, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)
    while (FOLDER / f"hold-{ctx.path}").exists():
        time.sleep(0.01)


@step
def receive(order: Order, ctx: StepContext) -> Order:
    """Note the order."""
    ctx.describe(title=f"{order.quantity} × {order.item}")
    effect(ctx)
    return order


@step
def price(order: Order, ctx: StepContext) -> int:
    """Price the order."""
    effect(ctx)
    return order.quantity * 100


approve = Step.human_in_the_loop("approve", message_for_user="Approve the order?", input_schema=Approval)


@step
def pack(approval: Approval, ctx: StepContext) -> int:
    """Pack what was approved."""
    effect(ctx)
    return approval.amount


@step
def ship(amount: int, ctx: StepContext) -> str:
    """Send it."""
    effect(ctx)
    return f"sent for {amount}"


registry.register(receive >> price >> approve >> pack >> ship, name="orders", version="1.0.0")


@step
def wait_long(ctx: StepContext) -> str:
    """Take a worker's slot."""
    effect(ctx)
    return "done"


registry.register(wait_long, name="long", version="1.0.0")


@step(retries=4, backoff=timedelta(minutes=10))
def load(ctx: StepContext) -> str:
    """Read pages and say so, until it is let go; then the other side is away."""
    effect(ctx)
    page = 0
    while (FOLDER / "hold-pages").exists():
        page += 1
        ctx.progress(page, 1_000, note=f"page {page}")
        ctx.log.info("read page %d", page, lines=40)
        time.sleep(0.2)
    ctx.log.error("the archive is away", waited=30)
    raise ConnectionError("the archive is away")


registry.register(load, name="loading", version="1.0.0")


def _quick(number: int) -> Step:
    @step(name=f"quick_{number:02d}")
    def quick(ctx: StepContext) -> str:
        """Note that it ran."""
        effect(ctx)
        return "done"

    return quick


registry.register(
    _quick(1) >> _quick(2) >> _quick(3) >> _quick(4) >> _quick(5) >> _quick(6) >> _quick(7) >> _quick(8) >> _quick(9)
    >> _quick(10) >> _quick(11) >> _quick(12) >> _quick(13) >> _quick(14) >> _quick(15),
    name="many-steps",
    version="1.0.0",
)  # fmt: skip

sign = Step.human_in_the_loop("sign", message_for_user="Sign?", input_schema=bool)
registry.register(sign, name="sign", version="1.0.0")

hurry = Step.human_in_the_loop(
    "hurry", message_for_user="Quick?", input_schema=bool, deadline=timedelta(seconds=8), on_deadline="reject"
)
registry.register(hurry, name="hurry", version="1.0.0")

pair = Step.human_in_the_loop("pair", message_for_user="Do two agree?", input_schema=bool, quorum=2)
registry.register(pair, name="pair", version="1.0.0")
