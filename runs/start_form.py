"""The form that starts a run: the pipeline's input, a title, and a key that makes sending it twice start one run."""

from __future__ import annotations

from django.http import HttpRequest, QueryDict
from flujo.errors import FlujoError
from flujo.registry import RegisteredPipeline

from runs.form_key import FormKey
from runs.value_form import ValueForm

MAX_TITLE = 200


class StartForm:
    """`input` is the form of the pipeline's input; `problems` are what is wrong with no field in particular."""

    def __init__(self, entry: RegisteredPipeline, request: HttpRequest) -> None:
        typed = request.POST if request.method == "POST" else QueryDict()
        self.entry = entry
        self.input = ValueForm(entry.input_schema(), request, taken=entry.input_type is not None)
        self.title = typed.get("title", "").strip()
        self.key = FormKey.of(typed.get("key", ""), salt="flujo.start")
        self.problems: list[str] = []
        self.title_problem = ""

    @property
    def failed(self) -> bool:
        """Whether something is to be corrected."""
        return bool(self.input.failed or self.problems or self.title_problem)

    def is_valid(self) -> bool:
        """Read what was typed into the input's `data`."""
        if len(self.title) > MAX_TITLE:
            self.title_problem = f"A title has at most {MAX_TITLE} characters; this one has {len(self.title)}."
        return self.input.is_valid() and not self.title_problem

    def refuse(self, error: FlujoError) -> None:
        """Show what the service refused, at the fields it names if there are any."""
        if not self.input.refuse(error):
            self.problems.append(error.message)
