"""The commands that read runs: list, show, history, log."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from typing import Any

from flujo import canonical, codec
from flujo.codec import isoformat
from flujo.commands.command import Call, Command, Exit, names_run, plain_head
from flujo.document import RunDocument
from flujo.errors import KeyMissing, RunDeleted, RunNotFound
from flujo.inflight import every_head
from flujo.paths import is_note
from flujo.records import AuditEvent, HumanTask, LogChunk, RunHead, StepReport
from flujo.redaction import Secrets, given
from flujo.status import EventKind, RunStatus

DEFAULT_LIMIT = 100


def at_least_one(text: str) -> int:
    """A number of rows. Raises `ArgumentTypeError` for what is none."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


def _list_options(parser: ArgumentParser) -> None:
    parser.add_argument("--status", choices=[status.value for status in RunStatus], help="only runs of this status")
    parser.add_argument("--pipeline", metavar="NAME", help="only runs of this pipeline")
    parser.add_argument("--limit", type=at_least_one, default=DEFAULT_LIMIT, help="at most this many (%(default)s)")
    parser.add_argument("--after", metavar="RUN", default="", help="go on behind this id, the `next` of a page before")


async def list_runs(call: Call) -> int:
    """A page of runs in the order of their ids."""
    wanted, given = [], call.given
    async for head in every_head(call.store, after=given.after):
        if given.status in (None, head.status.value) and given.pipeline in (None, head.pipeline):
            wanted.append(head)
        if len(wanted) > given.limit:
            break
    page = wanted[: given.limit]
    following = page[-1].run_id if len(wanted) > given.limit else None
    if call.out.as_json:
        call.out.document({"runs": [plain_head(head) for head in page], "next": following})
        return Exit.DONE
    heads = ("RUN", "PIPELINE", "STATUS", "NEXT STEP", "UPDATED", "TITLE")
    call.out.table(heads, [(*_line(head), head.updated_at, head.title) for head in page])
    if following:
        call.out.line(f"There are more: go on with --after {following}")
    return Exit.DONE


def _line(head: RunHead) -> tuple[str, ...]:
    return head.run_id, f"{head.pipeline} {head.version}", state_of(head), head.step_name


def state_of(head: RunHead) -> str:
    """The status, and behind it what it waits for or how it ended."""
    more = head.outcome or head.wait
    return f"{head.status.value} ({more.value})" if more else head.status.value


def _show_options(parser: ArgumentParser) -> None:
    names_run(parser)
    parser.add_argument("--values", action="store_true", help="with the input, the outputs and the context")


async def show(call: Call) -> int:
    """One run: its head, its steps, and what it waits for. Without its key, what can be read is shown."""
    try:
        document = await required(call, call.given.run)
    except KeyMissing as missing:
        return await _show_sealed(call, missing)
    plain = _plain(document, values=call.given.values)
    if call.out.as_json:
        call.out.document(plain)
        return Exit.DONE
    head = document.head
    assert head is not None  # `required` gives no document without one
    _show_head(call, head, plain["run"]["error_message"])
    for task in plain["open_human_tasks"]:
        call.out.line(f"asks at {task['path']}: {task['message']}")
    for wait in plain["open_waits"]:
        until = f" until {wait['due_at']}" if wait["due_at"] else ""
        call.out.line(f"waits at {wait['path']} for a {wait['kind']}{until}")
    if call.given.values:
        call.out.facts([(name, json.dumps(plain[name], ensure_ascii=False)) for name in ("input", "context")])
    if plain["steps"]:
        call.out.line("")
        heads = ("STEP", "FINISHED", "ATTEMPT", *(["OUTPUT"] if call.given.values else []))
        call.out.table(heads, [_step_line(step, values=call.given.values) for step in plain["steps"]])
    return Exit.DONE


async def _show_sealed(call: Call, missing: KeyMissing) -> int:
    """What the head and the history tell, which are not sealed."""
    head = await call.store.remains(call.given.run)
    if not isinstance(head, RunHead):
        raise missing
    steps: list[dict[str, Any]] = []
    asked: dict[tuple[str, Any], str] = {}
    for event in await call.store.events(head.run_id):
        data = json.loads(event.body)["data"]
        question = (event.path, data.get("generation"))
        if event.kind is EventKind.HUMAN_TASK_RAISED:
            asked[question] = event.path
        elif event.kind in _ENDS_A_QUESTION:
            asked.pop(question, None)
        if event.kind in _SAVES:
            steps.append({"path": event.path, "finished_at": isoformat(event.at), "attempt": data.get("attempt")})
    run, asked_at = plain_head(head), sorted(asked.values())
    if call.out.as_json:
        call.out.document({"run": run, "steps": steps, "asked_at": asked_at, "sealed": missing.message})
        return Exit.FOUND
    _show_head(call, head, run["error_message"])
    for path in asked_at:
        call.out.line(f"asks at {path}")
    if steps:
        call.out.line("")
        call.out.table(("STEP", "FINISHED", "ATTEMPT"), [_step_line(step, values=False) for step in steps])
    call.out.error(missing.message)
    return Exit.FOUND


_SAVES = (EventKind.STEP_COMPLETED, EventKind.STEP_TAKEN_OVER, EventKind.DECISION_RECORDED)
_ENDS_A_QUESTION = (EventKind.DECISION_RECORDED, EventKind.HUMAN_TASK_EXPIRED, EventKind.HUMAN_TASK_CLOSED)


def _show_head(call: Call, head: RunHead, error_message: str) -> None:
    call.out.facts(
        [
            ("run", head.run_id),
            ("title", head.title),
            ("pipeline", f"{head.pipeline} {head.version}"),
            ("fingerprint", head.fingerprint),
            ("status", state_of(head)),
            ("next step", f"{head.step_name} ({head.step_index + 1} of {head.step_count})" if head.step_name else ""),
            ("error", f"{head.error_type}: {error_message}" if head.error_type else ""),
            ("created", head.created_at),
            ("updated", head.updated_at),
            ("requester", head.requester),
            ("owner", head.owner),
        ]
    )


def _step_line(step: dict[str, Any], *, values: bool) -> tuple[Any, ...]:
    told = (json.dumps(step["output"], ensure_ascii=False),) if values else ()
    return (step["path"], datetime.fromisoformat(step["finished_at"]), step["attempt"] or None, *told)


def _plain(document: RunDocument, *, values: bool) -> dict[str, Any]:
    head = document.head
    assert head is not None  # `required` gives no document without one
    plain: dict[str, Any] = {"run": plain_head(head), "steps": []}
    secrets = Secrets.of_text(head.secrets)
    for row in document.checkpoints():
        if not is_note(row.path):
            step = codec.to_plain(row)
            output, changes = json.loads(step.pop("output")), json.loads(step.pop("context_changes") or "{}")
            told = {"output": secrets.hide(output, row.path), "context_changes": secrets.hide(changes)}
            shown = told if values else {}
            plain["steps"].append(step | shown)
    hidden = () if values else ("evidence",)
    plain["open_human_tasks"] = [
        {name: value for name, value in _shown(task, secrets).items() if name not in hidden}
        for task in document.open_human_tasks()
    ]
    plain["open_waits"] = [codec.to_plain(wait) for wait in document.open_waits()]
    if values:
        start = json.loads(document.start.input)
        plain |= {"input": secrets.hide(start, ""), "context": secrets.hide(document.context())}
    return plain


def _shown(task: HumanTask, secrets: Secrets) -> dict[str, Any]:
    evidence = secrets.hide(json.loads(task.evidence), given(task.path))
    return {**codec.to_plain(task), "evidence": canonical.dump(evidence)}


async def required(call: Call, run_id: str) -> RunDocument:
    """The stored run. Raises `RunNotFound`, `RunDeleted`, `InvalidRunId`."""
    document = await call.store.load(run_id)
    if document is None:
        raise RunNotFound(f"No run has the id {run_id!r} in this store.")
    if document.head is None:
        left = document.tombstone
        why = left.reason if left is not None and left.reason else "it was deleted"
        raise RunDeleted(f"Run {run_id} is no longer here: {why}. The command history shows what happened to it.")
    return document


def _history_options(parser: ArgumentParser) -> None:
    names_run(parser)
    parser.add_argument("--after", type=int, metavar="SEQ", default=0, help="go on behind this event")
    parser.add_argument("--limit", type=at_least_one, help="at most this many events")


async def history(call: Call) -> int:
    """The audit events of a run, a deleted one's too."""
    events = list(await call.store.events(call.given.run))
    if not events:
        raise RunNotFound(f"No run has the id {call.given.run!r} in this store.")
    page = [event for event in events if event.seq > call.given.after][: call.given.limit]
    if call.out.as_json:
        call.out.document({"run_id": call.given.run, "events": [_event(event) for event in page]})
        return Exit.DONE
    rows = [(event.seq, event.at, event.kind.value, event.path, event.actor) for event in page]
    call.out.table(("SEQ", "AT", "EVENT", "STEP", "ACTOR"), rows)
    return Exit.DONE


def _event(event: AuditEvent) -> dict[str, Any]:
    plain = codec.to_plain(event)
    return {**plain, "data": json.loads(plain.pop("body"))["data"]}


def _log_options(parser: ArgumentParser) -> None:
    names_run(parser)
    parser.add_argument("--step", metavar="PATH", help="only the lines of this step")
    parser.add_argument("--attempt", type=at_least_one, metavar="NUMBER", help="only those of this attempt")


async def log(call: Call) -> int:
    """The lines that the steps of a run logged, in the order of their times."""
    given, records = call.given, await call.store.reports(call.given.run)
    if not records:
        await required(call, given.run)
    wanted = [
        record for record in records if given.step in (None, record.path) and given.attempt in (None, record.attempt)
    ]
    lines = [line for chunk in wanted if isinstance(chunk, LogChunk) for line in _log_lines(chunk)]
    lines.sort(key=lambda line: line["at"])
    dropped = sum(report.log_dropped for report in wanted if isinstance(report, StepReport))
    if call.out.as_json:
        call.out.document({"run_id": given.run, "lines": lines, "dropped": dropped})
        return Exit.DONE
    call.out.table(("AT", "LEVEL", "STEP", "ATTEMPT", "MESSAGE"), [_log_row(line) for line in lines])
    if dropped:
        call.out.line(f"{dropped} more lines were logged than are kept.")
    return Exit.DONE


def _log_lines(chunk: LogChunk) -> list[dict[str, Any]]:
    return [{"path": chunk.path, "attempt": chunk.attempt, **line} for line in json.loads(chunk.lines)]


def _log_row(line: dict[str, Any]) -> tuple[Any, ...]:
    fields = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in line["fields"].items()]
    said = " ".join([line["message"], *fields])
    return datetime.fromisoformat(line["at"]), line["level"], line["path"], line["attempt"], said


COMMANDS = (
    Command("list", "list runs", list_runs, _list_options),
    Command("show", "show one run", show, _show_options),
    Command("history", "show the audit events of one run", history, _history_options),
    Command("log", "show what the steps of one run logged", log, _log_options),
)
