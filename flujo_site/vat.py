"""A VAT identification number: the countries we know, and the check digits that make a typing error visible."""

import re
from collections.abc import Callable

_SHAPES = {"DE": r"\d{8}", "FR": r"\d{9}", "IT": r"\d{10}"}


def assemble(country: str, body: str) -> str:
    """The complete number of a country code and its `body`, the digits without check digits."""
    return _ASSEMBLED[country](body)


def problem_with(vat_id: str) -> str | None:
    """What is wrong with a VAT id, as a sentence; None when its check digits are right."""
    if not vat_id.strip():
        return "The VAT id is missing."
    text = re.sub(r"[ .-]", "", vat_id).upper()
    country, digits = text[:2], text[2:]
    if country not in _SHAPES:
        return f"The VAT id {vat_id} begins with no country we know."
    body = digits[2:] if country == "FR" else digits[:-1]
    if not re.fullmatch(_SHAPES[country], body, re.ASCII) or assemble(country, body) != text:
        return f"The check digit of VAT id {vat_id} is wrong."
    return None


def _german(body: str) -> str:
    product = 10
    for digit in body:
        total = (int(digit) + product) % 10 or 10
        product = 2 * total % 11
    return f"DE{body}{(11 - product) % 10}"


def _french(body: str) -> str:
    return f"FR{(12 + 3 * (int(body) % 97)) % 97:02}{body}"


def _italian(body: str) -> str:
    doubled = (int(digit) * (1 + index % 2) for index, digit in enumerate(body))
    return f"IT{body}{-sum(sum(divmod(number, 10)) for number in doubled) % 10}"


_ASSEMBLED: dict[str, Callable[[str], str]] = {"DE": _german, "FR": _french, "IT": _italian}
