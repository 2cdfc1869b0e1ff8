"""The form that sends a run a signal: its data, and an id that makes sending it twice count once."""

from __future__ import annotations

from django.http import HttpRequest, QueryDict
from flujo.errors import FlujoError
from flujo.waits import SignalStep

from runs.form_key import FormKey
from runs.value_form import ValueForm


class SignalForm:
    """`data` is the form of what the message says; `problem` is what is wrong with no field in particular."""

    def __init__(self, receiving: SignalStep, request: HttpRequest) -> None:
        typed = request.POST if request.method == "POST" else QueryDict()
        self.data = ValueForm(receiving.data_schema(), request)
        self.key = FormKey.of(typed.get("key", ""), salt="flujo.signal")
        self.problem = ""

    @property
    def failed(self) -> bool:
        """Whether something is to be corrected."""
        return bool(self.data.failed or self.problem)

    def refuse(self, error: FlujoError) -> None:
        """Show what the service refused, at the fields it names if there are any."""
        if not self.data.refuse(error):
            self.problem = error.message
