"""Artefacts as tables, and the field of a model whose value may be one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from flujo import records
from flujo.errors import CorruptState
from flujo.state.artefacts import checked, digest_in

from runs.encryption import Opened, Sealed, SealedRow, SealedText, beginning

_AT_ONCE = 20


class Artefact(SealedRow):
    """A value too large for a row, once for all runs: `flujo.records.Artefact`."""

    sealed_as: ClassVar = records.Artefact
    digest = models.CharField(max_length=64, primary_key=True)
    text = SealedText()

    def __str__(self) -> str:
        return self.digest


class ArtefactUse(models.Model):
    """That a run refers to an artefact: `flujo.records.ArtefactUse`."""

    run = models.ForeignKey("Run", on_delete=models.PROTECT, db_column="run_id", db_index=False, related_name="+")
    artefact = models.ForeignKey(Artefact, on_delete=models.PROTECT, db_column="digest", related_name="uses")

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["run", "artefact"], name="flujo_artefact_use_once")]

    def __str__(self) -> str:
        return f"{self.artefact_id} of {self.run_id}"


class PayloadField(SealedText):
    """A canonical JSON text, sealed where the site has keys. An artefact is read with the row, in a query of its own.

    Raises `CorruptState` when the artefact is not what was stored.
    """

    def get_db_converters(self, connection: BaseDatabaseWrapper) -> list[Callable[..., Any]]:
        """What opens a column's values, and then puts artefacts in place of the references to them."""
        return [*super().get_db_converters(connection), _put_back]


def _put_back(value: str | None, _: Any, connection: BaseDatabaseWrapper) -> str | None:
    digest = digest_in(value)
    if value is None or digest is None:
        return value
    text = _text(digest, connection.alias)
    if isinstance(text, Sealed):
        text.stored = value
        return text
    return Opened.of(text, value.sealed_for) if isinstance(value, Opened) else text


def beginnings(stored: list[str], length: int) -> dict[str, str]:
    """The first characters of the values that the stored texts refer to, by those texts."""
    digests = {digest: text for text in stored if (digest := digest_in(text)) is not None}
    if not digests:
        return {}
    found = Artefact.objects.filter(pk__in=digests).values_list("digest", beginning("text", length))
    return {digests[digest]: text[:length] for digest, text in found.iterator(chunk_size=_AT_ONCE)}


def _text(digest: str, using: str) -> str:
    stored = Artefact.objects.using(using).filter(pk=digest).values_list("text", flat=True).first()
    if stored is None:
        raise CorruptState(f"The artefact {digest} is gone: its run was deleted meanwhile, or the store is damaged.")
    if isinstance(stored, Sealed):
        return stored
    users = ArtefactUse.objects.using(using).filter(artefact=digest).order_by("run_id").values_list("run_id", flat=True)
    return checked(digest, partial(str, stored), lambda: f"A value of run {', '.join(users[:3])}")
