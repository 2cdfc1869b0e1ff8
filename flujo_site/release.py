"""A release: what the checklist looks at in a git checkout, and the notes it drafts."""

import re
from pathlib import Path

from pydantic import Field

from flujo_site.checkout import Checkout, CheckoutError
from flujo_site.record import Record

MOST_COMMITS = 200
HEADINGS = {"feat": "Added", "add": "Added", "fix": "Fixed", "correct": "Fixed", "remove": "Removed", "drop": "Removed"}
_FORMAT = "--format=%h%x1f%s%x1f%an"


class Commit(Record):
    """One commit since the last release."""

    hash: str
    subject: str
    author: str


class Facts(Record):
    """What the checkout says about the release."""

    repository: str
    version: str
    branch: str
    head: str
    changed_files: list[str]
    tag_commit: str
    previous_tag: str
    changelog_has_version: bool
    commits: list[Commit]


class Check(Record):
    """One line of the checklist."""

    name: str
    passed: bool
    detail: str


class Draft(Record):
    """What a person decides on: the checks and the drafted notes."""

    repository: str
    version: str
    head: str
    checks: list[Check]
    notes: str = Field(description="Markdown")


def inspect(folder: Path, version: str) -> Facts:
    """Read everything the checks need. Raises `CheckoutError`."""
    checkout = Checkout(folder)
    tag = f"refs/tags/v{version}"
    head = checkout.git("rev-parse", "--verify", "--quiet", "HEAD^{commit}", missing_is_empty=True)
    if not head:
        raise CheckoutError(f"{folder} has no commits yet.")
    tag_commit = checkout.git("rev-parse", "--verify", "--quiet", f"{tag}^{{commit}}", missing_is_empty=True)
    previous = _previous_tag(checkout, tag_commit or head, f"v{version}")
    return Facts(
        repository=str(folder),
        version=version,
        branch=checkout.git("symbolic-ref", "--quiet", "--short", "HEAD", missing_is_empty=True),
        head=head,
        changed_files=_changed_files(checkout),
        tag_commit=tag_commit,
        previous_tag=previous,
        changelog_has_version=_changelog_has(folder / "CHANGELOG.md", version),
        commits=_commits(checkout, tag_commit or head, previous),
    )


def check(facts: Facts) -> list[Check]:
    """The checklist, in the order in which one repairs it."""
    changed = len(facts.changed_files)
    tagged = f"v{facts.version} is {facts.tag_commit[:10]}" if facts.tag_commit else f"no tag v{facts.version} yet"
    since = f"since {facts.previous_tag}" if facts.previous_tag else "in all: no earlier tag"
    return [
        Check(name="clean tree", passed=not changed, detail=f"{changed} changed files" if changed else "no changes"),
        Check(name="on a branch", passed=bool(facts.branch), detail=facts.branch or "HEAD is detached"),
        Check(name="something to release", passed=bool(facts.commits), detail=f"{len(facts.commits)} commits {since}"),
        Check(
            name="changelog mentions version",
            passed=facts.changelog_has_version,
            detail=f"CHANGELOG.md {'has' if facts.changelog_has_version else 'lacks'} {facts.version}",
        ),
        Check(name="tag exists", passed=bool(facts.tag_commit), detail=tagged),
        Check(
            name="tag is what is checked out",
            passed=facts.tag_commit == facts.head,
            detail=f"HEAD is {facts.head[:10]}",
        ),
    ]


def draft(facts: Facts, checks: list[Check]) -> Draft:
    """The notes: commits grouped by the first word of their subject."""
    groups: dict[str, list[str]] = {}
    for commit in facts.commits:
        groups.setdefault(_heading(commit.subject), []).append(f"- {commit.subject} ({commit.hash}, {commit.author})")
    sections = [f"## {heading}\n\n" + "\n".join(lines) for heading, lines in sorted(groups.items())]
    since = f"Changes since {facts.previous_tag}." if facts.previous_tag else "The first release."
    notes = "\n\n".join([f"# {facts.version}", since, *sections]) + "\n"
    return Draft(repository=facts.repository, version=facts.version, head=facts.head, checks=checks, notes=notes)


def question(draft: Draft) -> str:
    """The message for the person who gives the go."""
    failed = [check.name for check in draft.checks if not check.passed]
    state = "All checks passed."
    if failed:
        state = f"{len(failed)} of {len(draft.checks)} checks failed: {', '.join(failed)}."
    return f"Release {draft.version} of {Path(draft.repository).name} at {draft.head[:10]}? {state}"


def record(draft: Draft) -> str:
    """The text of the result file."""
    lines = [f"- [{'x' if check.passed else ' '}] {check.name}: {check.detail}" for check in draft.checks]
    return f"{draft.notes}\n## Checklist\n\nCommit {draft.head}\n\n" + "\n".join(lines) + "\n"


def _changed_files(checkout: Checkout) -> list[str]:
    status = checkout.git("status", "--porcelain", "--ignore-submodules=all")
    return [line[3:] for line in status.split("\n") if line][:MOST_COMMITS]


def _previous_tag(checkout: Checkout, commit: str, tag: str) -> str:
    return checkout.git(
        "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "--exclude", tag, commit, missing_is_empty=True
    )


def _commits(checkout: Checkout, until: str, since_tag: str) -> list[Commit]:
    span = f"refs/tags/{since_tag}..{until}" if since_tag else until
    log = checkout.git("log", "--no-merges", f"--max-count={MOST_COMMITS}", "--no-show-signature", _FORMAT, span, "--")
    return [
        Commit(hash=short, subject=subject, author=author)
        for short, subject, author in (line.split("\x1f", 2) for line in log.split("\n") if line)
    ]


def _changelog_has(path: Path, version: str) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    heading = re.compile(rf"^#+.*(?<![\w.]){re.escape(version)}(?![\w.])", re.MULTILINE)
    return heading.search(path.read_text(errors="replace")) is not None


def _heading(subject: str) -> str:
    """`feat: …` and `Add …` both name what kind of change it is."""
    first = re.match(r"\w+", subject)
    return HEADINGS.get(first[0].lower() if first else "", "Changed")
