"""The release checklist reads real git checkouts, and only those it may."""

import os
import subprocess
from pathlib import Path

import pytest
from pytest_django import Settings

from flujo_site import checkout, release
from flujo_site.checkout import CheckoutError


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ana Ruiz", "-c", "user.email=ana@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, subject: str) -> None:
    git(folder, "commit", "--quiet", "--allow-empty", "-m", subject)


def sign_head(folder: Path) -> None:
    """Give the last commit a signature that only a program could check."""
    headers, message = git(folder, "cat-file", "commit", "HEAD").split("\n\n", 1)
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n AAAA\n -----END PGP SIGNATURE-----"
    (folder / ".git" / "signed").write_text(f"{headers}\n{signature}\n\n{message}\n")
    git(folder, "reset", "--quiet", git(folder, "hash-object", "-t", "commit", "-w", ".git/signed"))


@pytest.fixture
def repository(tmp_path: Path, settings: Settings) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "CHANGELOG.md").write_text("# Changes\n\n## 1.1.0\n\n- faster\n")
    git(folder, "add", ".")
    commit(folder, "Start the shop")
    git(folder, "tag", "v1.0.0")
    commit(folder, "Add a basket")
    commit(folder, "fix: count the items")
    settings.FLUJO_REPOSITORIES = [folder]
    return folder


def states(folder: Path, version: str) -> dict[str, bool]:
    return {check.name: check.passed for check in release.check(release.inspect(folder, version))}


def test_release_finds_all_in_order_when_it_is(repository: Path) -> None:
    git(repository, "tag", "v1.1.0")
    assert set(states(repository, "1.1.0").values()) == {True}


def test_release_drafts_notes_from_the_commits_since_the_tag_before(repository: Path) -> None:
    git(repository, "tag", "v1.1.0")
    commit(repository, "Add what comes after")
    facts = release.inspect(repository, "1.1.0")
    notes = release.draft(facts, release.check(facts)).notes
    assert facts.previous_tag == "v1.0.0"
    assert [commit.subject for commit in facts.commits] == ["fix: count the items", "Add a basket"]
    assert notes.index("## Added") < notes.index("- Add a basket (") < notes.index("## Fixed")


def test_release_without_an_earlier_tag_takes_every_commit(repository: Path) -> None:
    git(repository, "tag", "--delete", "v1.0.0")
    facts = release.inspect(repository, "1.1.0")
    assert (facts.previous_tag, len(facts.commits)) == ("", 3)


def test_release_says_what_is_not_in_order(repository: Path) -> None:
    git(repository, "tag", "v1.2.0")
    commit(repository, "Remove the tag from HEAD")
    git(repository, "checkout", "--quiet", "--detach")
    (repository / "über uns.txt").write_text("new")
    assert states(repository, "1.2.0") == {
        "clean tree": False,
        "on a branch": False,
        "something to release": True,
        "changelog mentions version": False,
        "tag exists": True,
        "tag is what is checked out": False,
    }
    assert release.inspect(repository, "1.2.0").changed_files == ['"über uns.txt"']


def test_release_question_and_record_name_the_failed_checks(repository: Path) -> None:
    facts = release.inspect(repository, "1.1.0")
    draft = release.draft(facts, release.check(facts))
    assert "2 of 6 checks failed: tag exists, tag is what is checked out." in release.question(draft)
    assert "- [ ] tag exists: no tag v1.1.0 yet\n" in release.record(draft)


def test_release_finds_a_version_only_as_a_whole_word(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text("## 11.1.0\n## 1.1.01\nand 1.1.0 in a sentence\n")
    assert not release.inspect(repository, "1.1.0").changelog_has_version
    (repository / "CHANGELOG.md").write_text("## [1.1.0] - 2026-07-01\n")
    assert release.inspect(repository, "1.1.0").changelog_has_version


def test_release_of_a_checkout_without_commits_says_so(tmp_path: Path, settings: Settings) -> None:
    git(tmp_path, "init", "--quiet")
    settings.FLUJO_REPOSITORIES = [tmp_path]
    with pytest.raises(CheckoutError, match="no commits yet"):
        release.inspect(tmp_path, "1.0.0")


@pytest.mark.parametrize("path", ["..", "/", "/etc", "../shop-secrets", "./../../..", "link"])
def test_checkout_outside_the_allowed_folders_is_refused(repository: Path, path: str) -> None:
    (repository.parent / "shop-secrets").mkdir()
    (repository / "link").symlink_to("/etc")
    with pytest.raises(CheckoutError, match="is not inside"):
        checkout.find(path)


@pytest.mark.parametrize("path", ["missing", "CHANGELOG.md", "--help"])
def test_checkout_that_is_no_folder_is_refused(repository: Path, path: str) -> None:
    with pytest.raises(CheckoutError, match="is not a folder"):
        checkout.find(path)


def test_checkout_finds_the_allowed_folder_by_dot_by_name_and_by_full_path(
    repository: Path, settings: Settings
) -> None:
    assert checkout.find(".") == checkout.find(str(repository)) == repository
    settings.FLUJO_REPOSITORIES = [repository.parent]
    assert checkout.find("shop") == repository


def test_checkout_defaults_to_the_projects_own(settings: Settings) -> None:
    settings.FLUJO_REPOSITORIES = None
    assert checkout.find(".") == settings.BASE_DIR


def test_checkout_below_the_top_folder_and_outside_of_any_are_told_apart(
    repository: Path, tmp_path: Path, settings: Settings
) -> None:
    (repository / "docs").mkdir()
    with pytest.raises(CheckoutError, match=r"is inside the checkout .*shop\. Name its top folder"):
        release.inspect(repository / "docs", "1.1.0")
    with pytest.raises(CheckoutError, match="not a git repository"):
        release.inspect(tmp_path, "1.1.0")


def test_checkout_ignores_what_the_environment_says_about_git(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_WORK_TREE", "/nowhere")
    assert release.inspect(repository, "1.1.0").branch == "main"


def test_checkout_runs_no_program_of_its_own_configuration(repository: Path) -> None:
    sign_head(repository)
    trap = repository.parent / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {repository.parent}/sprung\n")
    trap.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(trap))
    git(repository, "config", "gpg.program", str(trap))
    git(repository, "config", "log.showSignature", "true")
    release.inspect(repository, "1.1.0")
    assert not (repository.parent / "sprung").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a checkout to somebody else")
def test_checkout_of_another_owner_is_read_when_its_folder_is_named_and_refused_below_it(
    repository: Path, settings: Settings
) -> None:
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 65534, 65534)
    assert release.inspect(repository, "1.1.0").commits
    settings.FLUJO_REPOSITORIES = [repository.parent]
    with pytest.raises(CheckoutError, match="dubious ownership"):
        release.inspect(repository, "1.1.0")
