"""The forms of the cleanup: which runs to look for, and the confirmation that deletes them."""

from __future__ import annotations

from typing import Any

from django import forms
from flujo.status import RunStatus

from runs.queries.state import Criteria
from runs.services.purge import LONGEST_REASON

TYPED_ABOVE = 50


class CriteriaForm(forms.Form):
    """Which runs count as stale."""

    days = forms.IntegerField(min_value=0, max_value=36_500, required=False)
    status = forms.ChoiceField(required=False, choices=[("", "")] + [(s.value, s.value) for s in RunStatus])
    pipeline = forms.CharField(required=False, max_length=200)

    def criteria(self) -> Criteria:
        """What was asked for, thirty days where nothing was said; call it on a valid form."""
        days = self.cleaned_data["days"]
        return Criteria(30 if days is None else days, self.cleaned_data["status"], self.cleaned_data["pipeline"])


class ConfirmForm(forms.Form):
    """The reason, and above fifty runs their number, typed: what is typed is what is deleted."""

    frozen = forms.CharField(max_length=200_000)
    reason = forms.CharField(
        max_length=LONGEST_REASON, error_messages={"required": "Say why: the reason stays in the audit."}
    )
    count = forms.IntegerField(required=False)

    def __init__(self, data: Any, *, count: int) -> None:
        super().__init__(data)
        self.expected = count

    def clean_count(self) -> int | None:
        typed: int | None = self.cleaned_data["count"]
        if self.expected > TYPED_ABOVE and typed != self.expected:
            raise forms.ValidationError(f"Type {self.expected} to confirm that {self.expected} runs are deleted.")
        return typed
