"""A person's HTTP client without a browser: a session cookie, forms as the pages hold them."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tests.e2e.site import Site


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class _Inputs(HTMLParser):
    """The named inputs of the form with the given id."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.inside = form, False
        self.values: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.inside = given.get("id") == self.form
        name = given.get("name")
        if self.inside and tag == "input" and name:
            self.values[name] = given.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "form"


@dataclass
class Answer:
    """A response, whatever its status."""

    status: int
    text: str


@dataclass
class Client:
    """Speaks to the server at `url` as the person `name` of the site."""

    site: Site
    name: str
    url: str

    def get(self, path: str) -> Answer:
        return self._send(Request(self.url.rstrip("/") + path))

    def form(self, path: str, form: str) -> dict[str, str]:
        """The fields of a form of a page, ready to be sent back."""
        answer = self.get(path)
        assert answer.status == 200, answer
        inputs = _Inputs(form)
        inputs.feed(answer.text)
        return inputs.values

    def post(self, path: str, values: dict[str, str]) -> Answer:
        request = Request(self.url.rstrip("/") + path, data=urlencode(values).encode(), method="POST")
        return self._send(request, token=values["csrfmiddlewaretoken"])

    def _send(self, request: Request, token: str = "a" * 32) -> Answer:
        request.add_header("Cookie", f"flujo={self.site.sessions[self.name]}; flujo-csrf={self._secret}")
        request.add_header("Origin", self.url.rstrip("/"))
        try:
            with build_opener(_NoRedirect).open(request, timeout=60) as response:
                return Answer(response.status, response.read().decode())
        except HTTPError as error:
            return Answer(error.code, error.read().decode())

    @property
    def _secret(self) -> str:
        return "s" * 32
