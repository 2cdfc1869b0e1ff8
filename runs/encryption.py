"""The keys of the site's store, and the model field whose values they seal."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from django.conf import settings
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Cast, Substr
from flujo.encryption import Keys, check_place
from flujo.errors import CorruptState, KeyMissing
from flujo.state.payloads import MARK, Keyed, key_of, place


def site_keys() -> Keys | None:
    """The keys that the setting `FLUJO_ENCRYPTION_KEYS` lists, the newest first; None without any."""
    return _keys(tuple(getattr(settings, "FLUJO_ENCRYPTION_KEYS", ())))


@lru_cache(maxsize=8)
def _keys(texts: tuple[str, ...]) -> Keys | None:
    return Keys(*texts) if texts else None


class Opened(str):
    """A value that was sealed, with the place it was sealed for; "" when it was changed since."""

    __slots__ = ("sealed_for",)
    sealed_for: str

    @classmethod
    def of(cls, text: str, sealed_for: str) -> Opened:
        opened = cls(text)
        opened.sealed_for = sealed_for
        return opened


class Sealed(str):
    """What is read in place of a value that no key of the site opens: the sentence that says so.

    `stored` is the value as it lies in the database, and what is written when a row with it is saved.
    """

    __slots__ = ("stored",)
    stored: str

    @classmethod
    def of(cls, stored: str) -> Sealed:
        sentence = cls(
            f"Sealed with key “{key_of(stored)}”, which this site does not have: give it that key and restart "
            "(FLUJO_ENCRYPTION_KEYS_FILE)"
        )
        sentence.stored = stored
        return sentence


M = TypeVar("M", bound=models.Model)

if TYPE_CHECKING:
    Text = models.TextField[Any, Any]  # at run time Django's fields have no parameters
else:
    Text = models.TextField


class SealedText(Text):
    """A text column whose values are sealed in the database when the site has keys; a `SealedRow` checks their place.

    To migrations it is a `TextField`. A value whose key is missing is read as `Sealed`.
    """

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.TextField", args, kwargs

    def get_db_converters(self, connection: BaseDatabaseWrapper) -> list[Callable[..., Any]]:
        """What opens a column's values, or says that it cannot."""
        keys = site_keys()
        return [lambda value, _expression, _connection: _opened(keys, value)]

    def get_prep_value(self, value: Any) -> Any:
        return value.stored if isinstance(value, Sealed) else super().get_prep_value(value)

    def pre_save(self, model_instance: models.Model, add: Any) -> Any:
        value = super().pre_save(model_instance, add)
        keys = site_keys()
        if keys is None or not value or isinstance(value, Sealed):
            return value
        return keys.seal(value, _place(model_instance, self.attname))


def _opened(keys: Keys | None, value: str | None) -> str | None:
    if not value or not key_of(value):
        return value
    if keys is None:
        return Sealed.of(value)
    try:
        sealed_for, text = keys.unsealed(value)
    except KeyMissing:
        return Sealed.of(value)
    except CorruptState:
        sealed_for, text = "", value  # no place: the row that it is read into refuses it
    return Opened.of(text, sealed_for)


def _place(row: Any, field: str) -> str:
    of: Keyed = row.sealed_as
    return place(of, field, [getattr(row, name) for name in of.key])


class SealedRows(models.QuerySet[M]):
    """Rows that are read again when one cannot be: its run may have been deleted between two statements."""

    def _fetch_all(self) -> None:
        try:
            super()._fetch_all()
        except CorruptState:
            super()._fetch_all()


class SealedRow(models.Model):
    """A row with sealed texts. `sealed_as` is its record, which names its table and its key in their places."""

    sealed_as: ClassVar[Any]
    objects = SealedRows.as_manager()

    class Meta:
        abstract = True

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **how: Any) -> Self:
        """The row; raises `CorruptState` when one of its values was sealed for another place."""
        row = super().from_db(db, field_names, values, **how)
        loaded = row.__dict__
        for name, value in list(loaded.items()):
            if isinstance(value, Opened):
                if all(part in loaded for part in cls.sealed_as.key):
                    check_place(value.sealed_for, _place(row, name))
                loaded[name] = str(value)
        return row


def beginning(field: str, length: int) -> Any:
    """A query's expression for the first letters of a text, or for the whole of it where it may be sealed."""
    return Substr(field, 1, length, output_field=SealedText()) if site_keys() is None else as_stored(field)


def as_stored(field: str) -> Cast:
    """The text of a field, opened, but with a reference where its row has one."""
    return Cast(field, SealedText())


def unread(rows: models.QuerySet[Any], field: str) -> int:
    """How many values of a column no key of the site opens."""
    keys = site_keys()
    sealed = rows.filter(**{f"{field}__startswith": MARK})
    for key_id in keys.ids if keys else ():
        sealed = sealed.exclude(**{f"{field}__startswith": f"{MARK}{key_id}:"})
    return sealed.count()
