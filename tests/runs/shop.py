"""A registered pipeline for tests of pages: `shop`, in two versions, with a model, a plain and an empty input."""

from __future__ import annotations

from decimal import Decimal

from flujo import PipelineContext, Step, step
from pydantic import BaseModel, Field

from runs.registry import registry


class Order(BaseModel):
    """What is ordered."""

    article: str = Field(min_length=2)
    quantity: int = Field(gt=0)
    price: Decimal = Decimal("9.99")


@step
def price(order: Order) -> Decimal:
    """Work out the total."""
    return order.price * order.quantity


@step
def notify(reason: object) -> None:
    """Tell the customer."""


@step
def ship(approved: bool) -> str:
    """Send the parcel."""
    return "sent"


@step
def read(value):  # type: ignore[no-untyped-def]  # a step whose input nobody annotated
    return value


@step
def tick() -> int:
    return 1


ask = Step.human_in_the_loop("approve", message_for_user="Ship it?", input_schema=bool, candidates=["group:finance"])
ask_or_notify = Step.human_in_the_loop("approve", message_for_user="Ship it?", input_schema=bool, on_reject=notify)

paid = Step.wait_for_signal("paid", Order)

registry.register(price >> ask >> paid >> notify, name="shop", version="0.9.0", description="Sells things for cash.")
registry.register(price >> ask >> ship, name="shop", version="1.0.0", description="Sells things.")
registry.register(price >> ask_or_notify >> ship, name="shop", version="1.1.0", description="Sells things kindly.")
registry.register(read, name="shop-anything", version="1.0.0")
registry.register(tick, name="shop-nothing", version="1.0.0")

whole = Step.parallel("both", {"price": price, "check": price >> ask}) >> Step.map_over("each", notify)
registry.register(whole, name="shop-whole", version="1.0.0", description="Steps that hold others.")


class Terms(PipelineContext):
    """What an offer carries."""

    discount: int = Field(default=0, le=50)
    note: str = ""


@step
def quote(article: str, context: Terms) -> int:
    """Work out the price."""
    context.discount = 30
    return len(article) * 100


@step
def check(total: int, context: Terms) -> int:
    """Refuse what is too cheap."""
    if context.discount > 20:
        raise ValueError("too much")
    return total - context.discount


@step
def send(total: int) -> str:
    return f"sent at {total}"


registry.register(quote >> check >> send, name="shop-offer", version="1.0.0")
