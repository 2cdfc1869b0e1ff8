"""Uploaded files: kept by their hash, bounded, and handed in again by nobody but their owner."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import signing
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict
from pydantic import BaseModel, ValidationError

from runs.forms import SchemaForm
from runs.models import Upload
from runs.uploads import UploadedFile, UploadNotFound, UploadTooLarge, sign, store_upload, unsign
from tests.runs.form_browser import page

pytestmark = pytest.mark.django_db


class Intake(BaseModel):
    note: str = "n"
    invoices: UploadedFile
    more: UploadedFile | None = None
    rows: list[int] = []


SCHEMA = Intake.model_json_schema()


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, settings: Any) -> Path:
    settings.FLUJO_DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture
def ana() -> User:
    return User.objects.create_user("ana")


@pytest.fixture
def ben() -> User:
    return User.objects.create_user("ben")


def csv(text: bytes = b"a,b\n1,2\n", name: str = "invoices.csv") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, text)


def files(**given: SimpleUploadedFile) -> MultiValueDict[str, Any]:
    return MultiValueDict({f"f-{name}": [file] for name, file in given.items()})


def everything_in(folder: Path) -> list[Path]:
    return [path for path in (folder / "uploads").rglob("*") if path.is_file()]


class TestStore:
    def test_an_upload_lies_under_its_hash_and_can_be_read(self, ana: User, data_folder: Path) -> None:
        kept = store_upload(csv(), ana)
        digest = hashlib.sha256(b"a,b\n1,2\n").hexdigest()
        assert kept == UploadedFile(digest=digest, name="invoices.csv", size=8)
        assert kept.path == data_folder / "uploads" / digest[:2] / digest
        with kept.open() as content:
            assert content.read() == b"a,b\n1,2\n"
        row = Upload.objects.get()
        assert (row.digest, row.name, row.size, row.owner) == (digest, "invoices.csv", 8, ana)

    def test_nobody_else_on_the_machine_may_read_it(self, ana: User) -> None:
        path = store_upload(csv(), ana).path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)} == {0o700}

    def test_the_same_bytes_are_kept_once_and_recorded_twice(self, ana: User, ben: User, data_folder: Path) -> None:
        first, second = store_upload(csv(), ana), store_upload(csv(name="other.csv"), ben)
        assert first.path == second.path
        assert len(everything_in(data_folder)) == 1
        assert Upload.objects.count() == 2

    def test_the_limit_holds_whatever_the_browser_claims(self, ana: User, data_folder: Path, settings: Any) -> None:
        settings.FLUJO_MAX_UPLOAD_BYTES = 10
        assert store_upload(csv(b"x" * 10), ana).size == 10
        liar = csv(b"x" * 11)
        liar.size = 1
        with pytest.raises(UploadTooLarge, match="larger than 10 bytes"):
            store_upload(liar, ana)
        assert len(everything_in(data_folder)) == 1, "nothing is left of what was refused"
        assert Upload.objects.count() == 1

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\ana\\bills.csv", "bills.csv"),
            ("Rechnung für Zoë.csv", "Rechnung für Zoë.csv"),
            ("", "file"),
            ("..", "file"),
            ("x" * 300 + ".csv", "x" * 251 + ".csv"),
            ("nul\0.csv", "nul.csv"),
            ("lines\r\n.csv", "lines.csv"),
        ],
    )
    def test_a_name_is_kept_without_folders(self, ana: User, given: str, kept: str) -> None:
        class Sent:
            name = given

            def chunks(self) -> list[bytes]:
                return [b"x"]

        assert store_upload(Sent(), ana).name == kept

    def test_an_empty_file_is_a_file(self, ana: User) -> None:
        assert store_upload(csv(b""), ana).size == 0

    def test_a_lost_file_is_named(self, ana: User) -> None:
        kept = store_upload(csv(), ana)
        kept.path.unlink()
        with pytest.raises(UploadNotFound, match=r"invoices\.csv"):
            kept.open()

    @pytest.mark.parametrize("digest", ["../../../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "/" * 64])
    def test_a_digest_cannot_leave_the_folder(self, digest: str) -> None:
        with pytest.raises(ValidationError):
            UploadedFile(digest=digest, name="x", size=1)
        with pytest.raises(ValidationError):
            UploadedFile.model_validate_json(json.dumps({"digest": digest, "name": "x", "size": 1}))


class TestReference:
    def test_a_signed_reference_is_its_owners_only(self, ana: User, ben: User) -> None:
        kept = store_upload(csv(), ana)
        signed = sign(kept, ana)
        assert unsign(signed, ana) == kept
        assert unsign(signed, ben) is None
        assert unsign(signed, None) is None

    def test_a_forged_or_foreign_signature_is_nothing(self, ana: User) -> None:
        kept = store_upload(csv(), ana)
        held = {**kept.model_dump(), "owner": str(ana.pk)}
        assert unsign(signing.dumps(held), ana) is None
        assert unsign(signing.dumps(held, salt="other"), ana) is None
        assert unsign(json.dumps(held), ana) is None
        assert unsign(sign(kept, ana)[:-1] + "x", ana) is None

    def test_an_old_reference_is_nothing(self, ana: User, monkeypatch: pytest.MonkeyPatch) -> None:
        signed = sign(store_upload(csv(), ana), ana)
        monkeypatch.setattr("runs.uploads.REFERENCE_LASTS", -1)
        assert unsign(signed, ana) is None

    def test_a_reference_to_a_lost_file_is_nothing(self, ana: User) -> None:
        kept = store_upload(csv(), ana)
        kept.path.unlink()
        assert unsign(sign(kept, ana), ana) is None


class TestField:
    def test_a_form_that_asks_for_a_file_says_so_to_its_page(self) -> None:
        assert SchemaForm(SCHEMA).is_multipart
        assert not SchemaForm({"type": "string"}).is_multipart
        assert page(SchemaForm(SCHEMA)).control("f-invoices").type == "file"

    def test_a_chosen_file_becomes_its_reference(self, ana: User) -> None:
        form = SchemaForm(SCHEMA, data=page(SchemaForm(SCHEMA)).posted(), files=files(invoices=csv()), user=ana)
        assert form.is_valid(), form.errors_summary
        kept = Intake.model_validate(form.value)
        with kept.invoices.open() as content:
            assert content.read() == b"a,b\n1,2\n"
        assert kept.more is None

    def test_a_missing_file_is_asked_for(self, ana: User) -> None:
        form = SchemaForm(SCHEMA, data=page(SchemaForm(SCHEMA)).posted(), user=ana)
        assert not form.is_valid()
        assert form.errors_summary == [("f-invoices", "Invoices", "Choose a file.")]

    def test_a_file_too_large_is_refused_at_its_field(self, ana: User, settings: Any) -> None:
        settings.FLUJO_MAX_UPLOAD_BYTES = 3
        form = SchemaForm(SCHEMA, data=page(SchemaForm(SCHEMA)).posted(), files=files(invoices=csv()), user=ana)
        assert not form.is_valid()
        assert "larger than 3 bytes" in form.errors_summary[0].message
        page(form)

    @pytest.mark.parametrize("press", [None, "f-rows.add=1"])
    def test_a_file_need_not_be_chosen_again(self, ana: User, press: str | None) -> None:
        data = page(SchemaForm(SCHEMA)).posted(press=press)
        form = SchemaForm(SCHEMA, data=data, files=files(invoices=csv()), user=ana)
        assert form.is_row_action is (press is not None)
        shown = page(form)
        assert "Kept: invoices.csv" in shown.words.replace("\n", " ")
        again = shown.posted()
        again.update({"f-rows-0": "5"} if press else {})
        done = SchemaForm(SCHEMA, data=again, user=ana)
        assert done.is_valid(), done.errors_summary
        assert done.value["invoices"]["name"] == "invoices.csv"
        assert Upload.objects.count() == 1

    def test_another_users_reference_is_not_taken(self, ana: User, ben: User) -> None:
        signed = sign(store_upload(csv(), ana), ana)
        data = QueryDict(mutable=True)
        data["f-invoices.held"] = signed
        assert SchemaForm(SCHEMA, data=data, user=ana).is_valid()
        assert not SchemaForm(SCHEMA, data=data, user=ben).is_valid()

    def test_a_plain_reference_is_not_taken(self, ana: User, ben: User) -> None:
        reference = json.dumps(store_upload(csv(), ana).model_dump())
        for name in ("f-invoices", "f-invoices.held", "f-invoices-digest"):
            data = QueryDict(mutable=True)
            data[name] = reference
            assert not SchemaForm(SCHEMA, data=data, user=ben).is_valid()

    def test_a_new_file_replaces_the_kept_one(self, ana: User) -> None:
        first = SchemaForm(SCHEMA, data=QueryDict(""), files=files(invoices=csv()), user=ana)
        second = files(invoices=csv(b"new", "new.csv"))
        done = SchemaForm(SCHEMA, data=page(first).posted(), files=second, user=ana)
        assert done.is_valid()
        assert done.value["invoices"]["name"] == "new.csv"

    def test_an_optional_file_can_be_taken_back(self, ana: User) -> None:
        both = files(invoices=csv(), more=csv(b"more", "more.csv"))
        shown = page(SchemaForm(SCHEMA, data=QueryDict(""), files=both, user=ana))
        done = SchemaForm(SCHEMA, data=shown.posted(**{"f-more.clear": "1"}), user=ana)
        assert done.is_valid()
        assert done.value["more"] is None
        assert "more.csv" not in page(done).words

    def test_a_stored_reference_is_kept_while_untouched(self, ana: User, ben: User) -> None:
        initial = {"invoices": store_upload(csv(), ana).model_dump()}
        shown = page(SchemaForm(SCHEMA, initial=initial, user=ben))
        assert "f-invoices.held" not in shown.names(), "it is not Ben's to hand in elsewhere"
        done = SchemaForm(SCHEMA, data=shown.posted(), initial=initial, user=ben)
        assert done.is_valid()
        assert done.value["invoices"] == initial["invoices"]

    def test_a_disabled_form_names_the_file_and_stores_nothing(self, ana: User) -> None:
        initial = {"invoices": store_upload(csv(), ana).model_dump()}
        shown = page(SchemaForm(SCHEMA, initial=initial, user=ana, disabled=True))
        assert "invoices.csv (8\xa0bytes)" in shown.words
        assert not [control for control in shown.controls if control.type == "file"]
        form = SchemaForm(SCHEMA, data=QueryDict(""), files=files(invoices=csv(b"z")), disabled=True, user=ana)
        assert not form.is_valid()
        page(form)
        assert Upload.objects.count() == 1

    def test_a_hostile_file_name_is_only_text(self, ana: User) -> None:
        given = files(invoices=csv(name='"><svg onload=alert(1)>.csv'))
        shown = page(SchemaForm(SCHEMA, data=QueryDict(""), files=given, user=ana))
        assert all(tag != "svg" for tag, _attrs in shown.tags)
