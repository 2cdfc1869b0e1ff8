"""Keys that seal stored values, each bound to its place in the store, and open them again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flujo.errors import BackendCannot, CorruptState, KeyMissing
from flujo.state.payloads import MARK

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEY_FILE_VARIABLE = "FLUJO_ENCRYPTION_KEYS_FILE"
_ID_LETTERS = 8


class Keys:
    """The keys of a store: the first one seals, all of them open. Each is a text that `new_key` made.

    A sealed value is `~flujo1:KEY ID:TOKEN`; the id is the beginning of the key's SHA-256, the token that of
    `cryptography`'s Fernet (AES-128 in CBC mode with HMAC-SHA256). Raises `BackendCannot` without the extra
    `encryption`, and `ValueError` for what is no key.
    """

    def __init__(self, first: str, *others: str) -> None:
        self._ciphers = {_id_of(key): _cipher(key, number) for number, key in enumerate((first, *others), 1)}
        self._first = self._ciphers[_id_of(first)]
        self.mark = f"{MARK}{_id_of(first)}:"

    @property
    def ids(self) -> list[str]:
        """The ids of all keys, the one that seals first."""
        return list(self._ciphers)

    def seal(self, text: str, place: str) -> str:
        """The text as it is stored at `place`, which is one line. Nothing is nothing, sealed too."""
        if not text:
            return text
        token = self._first.encrypt(f"{place}\n{text}".encode())
        return f"{self.mark}{token.decode('ascii')}"

    def open(self, text: str, place: str) -> str:
        """What was sealed for `place`; a text that was not sealed is as it is.

        Raises `KeyMissing` when another key sealed it, `CorruptState` when it was changed or belongs elsewhere.
        """
        if not is_sealed(text):
            return text
        sealed_for, plain = self.unsealed(text)
        check_place(sealed_for, place)
        return plain

    def unsealed(self, sealed: str) -> tuple[str, str]:
        """The place a sealed value belongs to, and the value."""
        from cryptography.fernet import InvalidToken

        key_id, _, token = sealed.removeprefix(MARK).partition(":")
        if key_id not in self._ciphers:
            raise KeyMissing(
                f"A stored value is encrypted with the key {key_id}, and the keys given are {', '.join(self.ids)}. "
                "Nothing was changed: give that key, too."
            )
        try:
            plain = self._ciphers[key_id].decrypt(token).decode()
        except (InvalidToken, ValueError) as error:
            raise CorruptState(
                f"A value that was encrypted with the key {key_id} was changed since. It was left as it is."
            ) from error
        place, _, text = plain.partition("\n")
        return place, text


def is_sealed(text: str) -> bool:
    """Whether a stored text is sealed."""
    return text.startswith(MARK)


def check_place(sealed_for: str, place: str) -> None:
    """Raise `CorruptState` when a value was sealed for another place than the one it was found in."""
    if sealed_for != place:
        raise CorruptState(f"The value of {place} was written for {sealed_for}: somebody moved it. It was left there.")


def new_key() -> str:
    """A new random key."""
    return _fernet().generate_key().decode("ascii")


def keys_in(path: Path | str) -> tuple[str, ...]:
    """The keys in a file: one a line, the newest first; empty lines and those that begin with # are comments."""
    return tuple(_lines(Path(path)))


def _lines(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _id_of(key: str) -> str:
    return hashlib.sha256(f"flujo key id\n{key}".encode()).hexdigest()[:_ID_LETTERS]


def _cipher(key: str, number: int) -> Fernet:
    try:
        return _fernet()(key)
    except ValueError as error:  # which does not quote the key
        raise ValueError(f"Key number {number} is no encryption key. flujo.encryption.new_key() makes one.") from error


def _fernet() -> type[Fernet]:
    try:
        from cryptography.fernet import Fernet
    except ImportError as error:
        raise BackendCannot("Encryption needs the extra: pip install 'flujo[encryption]'.") from error
    return Fernet
