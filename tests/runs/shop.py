"""A registered pipeline for tests of pages: `shop`, in two versions, with a model, a plain and an empty input."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from flujo import PipelineContext, Secret, Step, StepContext, step
from pydantic import BaseModel, Field, SecretStr

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


class SignIn(BaseModel):
    """What a bank asks for; the PIN is declared secret where the pipeline is registered."""

    user: str
    password: SecretStr
    token: Annotated[str, Secret()]
    pin: int


class Vault(PipelineContext):
    """What a payment carries."""

    account: str = ""
    key: SecretStr = SecretStr("")


class Code(BaseModel):
    """What the person answers."""

    code: SecretStr
    amount: int


@step
def sign_in(given: SignIn, context: Vault) -> SignIn:
    """Sign in at the bank."""
    context.account, context.key = given.user, given.password
    return given


@step
def pay(answer: Code, context: Vault, ctx: StepContext) -> list[SecretStr]:
    """Pay, and get the codes for the next payments."""
    if answer.amount > 100:
        said: SignIn = ctx.output_of("sign_in")
        secrets = (said.token, said.pin, answer.code.get_secret_value(), context.key.get_secret_value())
        raise ValueError(f"the bank refuses {secrets!r}")
    return [answer.code]


confirm = Step.human_in_the_loop(
    "confirm", message_for_user=lambda given: f"Pay as {given.user} with {given.token}?", input_schema=Code
)

registry.register(sign_in >> confirm >> pay, name="shop-bank", version="1.0.0", secret_keys=["pin"])
