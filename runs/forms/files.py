"""The field for an uploaded file: kept when it arrives, so that a second try need not choose it again."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from django.template.defaultfilters import filesizeformat
from pydantic import ValidationError

from runs.forms import names
from runs.forms.field import Field, Scene
from runs.forms.refused import Refused
from runs.forms.spec import MISSING, Spec
from runs.uploads import UploadedFile, UploadTooLarge, limit, sign, store_upload, unsign


class FileField(Field):
    """A file input beside what is already held: an earlier upload of this user, or the stored reference."""

    template = "forms/_file.html"

    def __init__(self, spec: Spec, *, name: str, scene: Scene, initial: Any = MISSING) -> None:
        super().__init__(spec, name=name, scene=scene, initial=initial)
        scene.inputs += 2
        self.too_large: UploadTooLarge | None = None

    @cached_property
    def sent(self) -> UploadedFile | None:
        """The file of this post or of the one before, stored on first use."""
        given = self.scene.files.get(self.name) if self.scene.files is not None else None
        if given is not None and not self.scene.disabled:
            try:
                return store_upload(given, self.scene.user)
            except UploadTooLarge as error:
                self.too_large = error
        signed = self.scene.text(self.held_name)
        return unsign(signed, self.scene.user) if signed else None

    @property
    def cleared(self) -> bool:
        return self.can_clear and self.scene.text(self.clear_name) is not None

    def read(self) -> Any:
        sent = self.sent
        if self.too_large is not None:
            raise Refused(self.too_large.message)
        if self.cleared:
            return None
        if sent is not None:
            return sent.model_dump()
        if self.initial is not MISSING and self.initial is not None:
            return self.initial
        if self.spec.may_be_absent:
            return MISSING
        if self.spec.nullable:
            return None
        raise Refused("Choose a file.")

    @property
    def held(self) -> UploadedFile | None:
        """The file that stands if no other is chosen."""
        if self.cleared:
            return None
        if self.sent is not None:
            return self.sent
        try:
            return None if self.initial in (MISSING, None) else UploadedFile.model_validate(self.initial)
        except ValidationError:
            return None

    @property
    def held_words(self) -> str:
        return f"{self.held.name} ({filesizeformat(self.held.size)})" if self.held else ""

    @property
    def signed(self) -> str:
        """The reference as this user may hand it in again; the stored one needs none."""
        return sign(self.sent, self.scene.user) if self.sent and not self.cleared else ""

    @property
    def can_clear(self) -> bool:
        return self.spec.nullable and not self.scene.disabled

    @property
    def held_name(self) -> str:
        return names.control(self.name, "held")

    @property
    def clear_name(self) -> str:
        return names.control(self.name, "clear")

    @property
    def help_lines(self) -> list[str]:
        return [*super().help_lines, *([] if self.scene.disabled else [f"At most {filesizeformat(limit())}."])]

    @property
    def required_word(self) -> str:
        return "optional" if self.spec.nullable or self.spec.may_be_absent else "required"

    def attributes(self) -> dict[str, Any]:
        required = self.required_word == "required" and self.held is None
        return {
            "type": "file",
            "id": self.id,
            "name": self.name,
            "aria-required": "true" if required else None,
            **self.common_attributes(),
        }
