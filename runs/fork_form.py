"""The form that forks a run: the fields of its context, a reason, and a key: sending it twice makes one run."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, QueryDict
from flujo import canonical
from flujo.errors import FlujoError
from flujo.lineage import differences

from runs.form_key import FormKey
from runs.forms import SchemaForm
from runs.queries.run_fork import ForkPage
from runs.reason import reason_problem


class ForkForm:
    """`edits` are the fields that were changed; they count once they were shown, which `seen` proves."""

    def __init__(self, page: ForkPage, request: HttpRequest) -> None:
        posted = request.POST if request.method == "POST" else None
        self._typed = posted or QueryDict()
        self._page = page
        self.key = FormKey.of(self._typed.get("key", ""), salt="flujo.fork")
        self.reason = self._typed.get("reason", "").strip()
        self.problem = self.reason_problem = ""
        self.edits: dict[str, Any] = {}
        self.fields = (
            SchemaForm(
                page.schema,
                data=posted,
                files=request.FILES if posted is not None else None,
                initial=page.before,
                user=request.user,
            )
            if page.schema is not None
            else None
        )

    @property
    def is_row_action(self) -> bool:
        """Whether a button inside the form was pressed: show it again, do nothing."""
        return self.fields is not None and self.fields.is_row_action

    @property
    def failed(self) -> bool:
        """Whether something is to be corrected."""
        found = self.fields.errors_summary if self.fields is not None else []
        return bool(found or self.problem or self.reason_problem)

    def is_valid(self) -> bool:
        """Read what was typed into `edits`."""
        self.reason_problem = reason_problem(self.reason)
        if self.fields is None:
            return not self.reason_problem
        if not self.fields.is_valid():
            return False
        before = self._page.before
        self.edits = {
            name: value
            for name, value in self.fields.value.items()
            if canonical.dump(value) != canonical.dump(before.get(name))
        }
        return not self.reason_problem

    @property
    def changed(self) -> list[dict[str, str]]:
        """What the edits change, as JSON, by JSON pointer."""
        after = {**self._page.before, **self.edits}
        return [
            {name: value if name == "pointer" else canonical.dump(value) for name, value in each.items()}
            for each in differences(self._page.before, after, secret=self._page.secret)
        ]

    @property
    def seen(self) -> str:
        """Stands for the edits as they are shown."""
        return canonical.digest(canonical.dump([self._page.step, self.edits]))

    @property
    def confirmed(self) -> bool:
        """Whether the very edits that were typed have been shown; there may be none."""
        return not self.edits or self._typed.get("seen", "") == self.seen

    def refuse(self, error: FlujoError) -> None:
        """Show what the service refused, at the fields it names if there are any."""
        errors = error.details.get("errors")
        if self.fields is not None and errors:
            self.fields.add_errors(errors)
        else:
            self.problem = error.message
