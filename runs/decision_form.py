"""What a person sent to decide a human task: the answer, the reason, and which request they saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flujo.status import DecisionOutcome

from runs.forms import Problem, SchemaForm

if TYPE_CHECKING:
    from django.http import HttpRequest, QueryDict
    from flujo.errors import FlujoError

    from runs.access import User
    from runs.queries.human_task import RequestPage
    from runs.queries.payload import Payload

REASON_ID, TEXT_ID = "decision-reason", "decision-answer"
NO_OUTCOME = "Choose: press one of the two buttons."
NO_REASON = "Say why you reject: it is kept with the run and in the audit."


@dataclass(slots=True)
class DecisionForm:
    """The form as it is shown; `sent` is what was posted, None on a first look."""

    page: RequestPage
    user: User
    sent: QueryDict | None = None
    fields: SchemaForm | None = None
    errors: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, page: RequestPage, request: HttpRequest) -> DecisionForm:
        """The form of `page` with what `request` posted, if it did."""
        sent, user = (request.POST, request.user) if request.method == "POST" else (None, request.user)
        form = cls(page, user, sent)
        if page.task.kind == "form" and page.values_visible and not form.recorded:
            answer = page.answer
            form.fields = SchemaForm(
                page.schema,
                data=sent,
                files=request.FILES if sent is not None else None,
                initial=answer.payload.tree if answer else page.suggested,
                user=user,
                disabled=sent is None and not form.usable,
            )
        return form

    @property
    def usable(self) -> bool:
        """Whether this person may decide this request now."""
        return self.page.open and not self.page.refusal

    @property
    def recorded(self) -> Payload | None:
        """The recorded answer where it is too large for a form, or sealed; None where the form shows it."""
        answer = self.page.answer
        return answer.payload if answer and self.sent is None and answer.payload.kind in ("large", "sealed") else None

    @property
    def outcome(self) -> DecisionOutcome:
        """What the pressed button says; `complete` refuses a form that was sent without one."""
        rejects = self._text("outcome") == DecisionOutcome.REJECTED
        return DecisionOutcome.REJECTED if rejects else DecisionOutcome.APPROVED

    @property
    def reason(self) -> str:
        answer = self.page.answer
        return self._text("reason").strip() if self.sent is not None else (answer.reason if answer else "")

    @property
    def text(self) -> str:
        """The written answer."""
        answer = self.page.answer
        if self.sent is not None:
            return self._text("answer").replace("\r\n", "\n")
        data = answer.payload.tree if answer else self.page.suggested
        return data if isinstance(data, str) else ""

    @property
    def key(self) -> str:
        """The idempotency key: made when the form is first shown, kept when it comes back."""
        return self._text("key")[:100] or uuid4().hex

    @property
    def generation(self) -> int:
        """The generation of the request that was shown."""
        sent = self._text("generation")
        return int(sent) if sent.isdecimal() and len(sent) < 19 else -1

    @property
    def digest(self) -> str:
        return self._text("digest")

    @property
    def answer(self) -> Any:
        """The answer as JSON; None where what was typed cannot be read."""
        if self.outcome == DecisionOutcome.REJECTED:
            return None
        if self.fields is not None:
            return self.fields.value if self.fields.is_valid() else None
        return True if self.page.task.kind == "bool" else self.text

    @property
    def changes_rows(self) -> bool:
        """Whether a button inside the typed form was pressed (add a row, remove one): nothing is decided."""
        return self.fields is not None and self.fields.is_row_action

    @property
    def problems(self) -> list[Problem]:
        """Everything to correct, in the order of the page."""
        return [*(self.fields.errors_summary if self.fields is not None else []), *self.errors]

    @property
    def reason_is_missing(self) -> bool:
        return any(problem.id == REASON_ID for problem in self.errors)

    @property
    def text_is_missing(self) -> bool:
        return any(problem.id == TEXT_ID for problem in self.errors)

    def complete(self) -> bool:
        """Whether everything the chosen button needs is there; else `errors` says what is missing."""
        if self.changes_rows:
            return False
        if self._text("outcome") not in list(DecisionOutcome):
            self.errors.append(Problem("", "", NO_OUTCOME))
        elif self.outcome == DecisionOutcome.REJECTED:
            if not self.reason:
                self.errors.append(Problem(REASON_ID, "Reason", NO_REASON))
        elif self.page.task.kind == "text" and not self.text.strip():
            self.errors.append(Problem(TEXT_ID, "Answer", "Write an answer."))
        elif self.fields is not None and not self.fields.is_valid():
            return False
        return not self.errors

    def refuse(self, error: FlujoError) -> None:
        """Show at its fields what the engine did not accept."""
        found = error.details.get("errors", [])
        if self.fields is not None and found:
            self.fields.add_errors(found)
        elif found:
            self.errors.append(Problem(TEXT_ID, "Answer", error.message))

    def _text(self, name: str) -> str:
        return self.sent.get(name, "") if self.sent is not None else ""
