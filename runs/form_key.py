"""The key that a form carries, minted when it is shown: sending the form twice does the thing once."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from django.core import signing


@dataclass(frozen=True, slots=True)
class FormKey:
    """`value` is the key itself, `signed` what the form's hidden field holds."""

    value: str
    signed: str

    @classmethod
    def of(cls, posted: str, *, salt: str) -> FormKey:
        """The key that was posted, or a new one where none was, or one that this site did not sign for this `salt`."""
        signer = signing.Signer(salt=salt)
        try:
            value = signer.unsign(posted) if posted else uuid4().hex
        except signing.BadSignature:
            value = uuid4().hex
        return cls(value, signer.sign(value))
