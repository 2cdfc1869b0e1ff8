"""Values: dataclasses that nobody changes once they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """A dataclass with slots that is compared and hashed by its fields.

    Type checkers see it as frozen. While the program runs nothing forbids a change: a frozen dataclass takes ten times
    as long to make, and a step makes a dozen of them.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
