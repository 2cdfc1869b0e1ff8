"""What is marked secret: found in annotations of every shape, hidden where values are shown, kept for the steps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from flujo import Flujo, PipelineContext, PipelineRegistry, Secret, Step, StepContext, kin, step
from flujo.__main__ import main
from flujo.redaction import HIDDEN, Secrets, given, marked, scrubbed
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from pydantic import BaseModel, Field, SecretBytes, SecretStr
from typing_extensions import TypedDict  # pydantic wants it before Python 3.12

from tests.engine.making import document_of


class Card(BaseModel):
    number: SecretStr
    holder: str = ""


class Tree(BaseModel):
    code: Annotated[str, Secret()] | None = None
    children: list[Tree] = []


@dataclasses.dataclass
class Box:
    cards: list[Card]
    key: Annotated[bytes, Secret()] = b""


class Pair(NamedTuple):
    open: str
    shut: SecretStr


class Extras(TypedDict):
    token: SecretBytes
    many: list[SecretStr]


class Renamed(BaseModel):
    word: SecretStr = Field(alias="passWord")


MARKED: dict[str, tuple[Any, set[str], bool]] = {
    "a secret": (SecretStr, set(), True),
    "a marked text": (Annotated[str, Secret()], set(), True),
    "a list of secrets": (list[SecretStr], set(), True),
    "one or none": (SecretStr | None, set(), True),
    "a model": (Card, {"number"}, False),
    "a marked model": (Annotated[Card, Secret()], set(), True),
    "a dictionary of models": (dict[str, Card], {"number"}, False),
    "a recursive model": (Tree, {"code"}, False),
    "a dataclass": (Box, {"number", "key"}, False),
    "a named tuple": (Pair, {"shut"}, False),
    "a typed dictionary": (Extras, {"token", "many"}, False),
    "an alias": (Renamed, {"word", "passWord"}, False),
    "nothing": (dict[str, list[int]], set(), False),
    "anything": (Any, set(), False),
}


@pytest.mark.parametrize("name", MARKED)
def test_annotation_says_which_of_its_values_are_secret(name: str) -> None:
    annotation, keys, whole = MARKED[name]

    assert marked(annotation) == Secrets(frozenset(keys), frozenset({""} if whole else ()))


def test_hiding_leaves_the_rest_as_it_is() -> None:
    secrets = Secrets(frozenset({"pin"}), frozenset({"codes"}))
    value = {"a": [{"pin": {"deep": 1}, "b": None}], "pin": "x"}

    assert secrets.hide(value) == {"a": [{"pin": HIDDEN, "b": None}], "pin": HIDDEN}
    assert secrets.hide([1], "codes") == secrets.hide([1], "codes[3]") == HIDDEN
    assert secrets.hide([1], "other") == [1]
    assert secrets.drop(value) == {"a": [{"b": None}]}
    assert Secrets.of_text(secrets.to_text()) == secrets
    assert Secrets().to_text() == ""


def test_message_loses_secrets_as_they_are_quoted() -> None:
    secrets = ["it's", "two\nlines", "two"]
    quoted = f"{secrets[0]} {secrets[1]!r} {json.dumps(secrets[1])}"

    assert scrubbed(quoted, secrets) == f"{HIDDEN} '{HIDDEN}' \"{HIDDEN}\""


def test_pipeline_hides_what_passes_secrets_on_without_a_name() -> None:
    @step
    def fetch() -> SecretStr:
        return SecretStr("x")

    @step
    def use(word: SecretStr) -> int:
        return 1

    @step
    def plain(number: int) -> int:
        return number

    both = Step.parallel("both", {"a": fetch, "b": plain})
    ask = Step.human_in_the_loop("ask", input_schema=bool, when=lambda word: True)
    registry = PipelineRegistry()

    def paths(pipeline: Any, name: str) -> set[str]:
        return set(registry.register(pipeline, name=name, version="1.0.0").secrets.paths)

    assert paths(fetch >> ask >> plain, "asks") == {"fetch", "ask", given("ask"), given("plain")}
    assert paths(use >> plain, "takes") == {"", given("use")}
    assert paths(both, "both") == {"both", "both/a"}
    assert paths(plain, "plain") == set()


class Vault(PipelineContext):
    key: SecretStr = SecretStr("")


GIVEN = {"user": "ana", "pin": "canary-pin", "card": {"number": "canary-card"}}
CANARIES = ("canary-pin", "canary-card", "canary-key")


class SignIn(BaseModel):
    user: str
    pin: str
    card: Card


def bank() -> Any:
    @step
    async def sign_in(given: SignIn, context: Vault) -> SignIn:
        context.key = SecretStr("canary-key")
        return given

    @step
    async def pay(answer: bool, context: Vault, ctx: StepContext) -> int:
        said: SignIn = ctx.output_of("sign_in")
        ctx.progress(1, 2, f"with {said.pin}")
        ctx.log.warning("paying with %s", said.pin, extra={"pin": said.pin, "also": [said.pin]})
        raise ValueError(f"{said.pin} {said.card.number.get_secret_value()!r} {context.key.get_secret_value()}")

    ask = Step.human_in_the_loop("ask", message_for_user=lambda given: f"{given.user}: {given.pin}", input_schema=bool)
    return sign_in >> ask >> pay


def bank_runner(backend: StateBackend) -> Flujo:
    registry = PipelineRegistry()
    registry.register(bank(), name="bank", version="1.0.0", secret_keys=["pin"])
    return Flujo(registry=registry, pipeline_name="bank", state_backend=backend)


async def test_no_text_that_is_kept_quotes_a_secret(backend: StateBackend) -> None:
    runner = bank_runner(backend)
    paused = await runner.run_async(GIVEN, run_id="r")
    assert paused.pause is not None
    assert paused.pause.message == f"ana: {HIDDEN}"
    failed = await runner.resume_async("r", True)

    document = await document_of(backend, "r")
    assert failed.status is RunStatus.FAILED
    assert failed.error == f"ValueError: {HIDDEN} '{HIDDEN}' {HIDDEN}"
    assert json.loads(document.start.input) == {**GIVEN, "card": {"number": "canary-card", "holder": ""}}
    values = {"run_input", "checkpoint", "human_task"}
    state = await backend.load_state("r")
    assert state is not None
    kept = {table: json.dumps(rows) for table, rows in state["rows"].items() if table not in values}
    kept["audit_event"] = "".join(event.body for event in await backend.events("r"))
    assert [table for table, text in kept.items() if any(canary in text for canary in CANARIES)] == []
    assert {"attempt", "step_report", "log_chunk"} <= kept.keys()
    assert HIDDEN in kept["log_chunk"]


async def test_fork_keeps_edited_secrets_out_of_the_audit(backend: StateBackend) -> None:
    runner = bank_runner(backend)
    await runner.run_async(GIVEN, run_id="r")
    await runner.resume_async("r", True)
    forked = await runner.fork_async("r", from_step="pay", context={"key": "canary-new"}, reason="another key")

    bodies = [event.body for event in await backend.events(forked.run_id)]
    assert not any("canary" in body for body in bodies)
    assert any(HIDDEN in body for body in bodies)
    document = await document_of(backend, forked.run_id)
    assert document.head is not None
    assert Secrets.of_text(document.head.secrets).keys == {"pin", "number", "key"}


def test_command_line_hides_secrets_also_where_values_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank_runner(SQLiteBackend(tmp_path / "runs.db")).run(GIVEN, run_id="r")

    assert main(["show", str(tmp_path / "runs.db"), "r", "--values", "--json"]) == 0
    shown = capsys.readouterr().out

    assert not any(canary in shown for canary in CANARIES)
    assert shown.count(HIDDEN) > 5
    assert "ana" in shown


async def test_parent_and_child_hide_what_the_other_marks(backend: StateBackend) -> None:
    @step
    async def fetch(given: dict[str, str]) -> dict[str, str]:
        return {"code": "canary-code", "pin": given["pin"]}

    registry = PipelineRegistry()
    registry.register(fetch, name="child", version="1.0.0", secret_keys=["code"])
    parent = Step.run_pipeline("ask", pipeline="child")
    registry.register(parent, name="parent", version="1.0.0", secret_keys=["pin"])
    result = await Flujo(registry=registry, pipeline_name="parent", state_backend=backend).run_async(
        {"pin": "canary-pin"}, run_id="r"
    )
    child = kin.child_id((await document_of(backend, "r")).head, "ask", 0)
    if result.status is not RunStatus.COMPLETED:
        await Flujo(registry=registry, pipeline_name="child", state_backend=backend).continue_async(child)
        await Flujo(registry=registry, pipeline_name="parent", state_backend=backend).run_async(
            {"pin": "canary-pin"}, run_id="r"
        )

    for run_id in ("r", child):
        head = (await document_of(backend, run_id)).head
        assert head is not None
        assert head.status is RunStatus.COMPLETED
        assert Secrets.of_text(head.secrets).keys == {"code", "pin"}
