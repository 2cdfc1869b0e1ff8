"""The demo's pipelines: invoice intake, bank statement, release checklist, data export request."""

from datetime import date, timedelta
from decimal import Decimal

from flujo import PipelineContext, RetryPolicy, Step, StepContext, step
from pydantic import Field

from flujo_site import checkout, export, invoice_checks, invoices, ledger, release, result_file, statements
from flujo_site.export import Collected, PrivacyReview, Redacted
from flujo_site.invoices import Findings, InvoiceFile, InvoiceReview, Money, SampleFile, ValidatedFile
from flujo_site.ledger import Posting
from flujo_site.record import Record
from flujo_site.release import Draft, Facts
from flujo_site.result_file import ResultFile
from flujo_site.statements import Matched, NotDelivered, Statement
from runs.registry import registry
from runs.uploads import UploadedFile

# Invoice intake


class IntakeRequest(Record):
    """Which invoices to take in."""

    sample: SampleFile = Field(
        default=SampleFile.THIRD_QUARTER, title="Sample file", description="Read when you upload none of your own."
    )
    upload: UploadedFile | None = Field(
        default=None, title="Your own CSV file", description=f"With the columns {', '.join(invoices.COLUMNS)}."
    )
    limit: Money = Field(
        default=Decimal("10000.00"), gt=0, title="Limit (EUR)", description="A person is asked about larger invoices."
    )


class IntakeContext(PipelineContext):
    """What is known about an intake so far."""

    file: str = ""
    invoice_count: int = 0
    problem_count: int = 0
    posted_total: Decimal = Decimal()


@step
def parse(request: IntakeRequest, context: IntakeContext, ctx: StepContext) -> InvoiceFile:
    """Read the CSV file."""
    file = request.upload.name if request.upload else request.sample.value
    with request.upload.open() if request.upload else (invoices.DEMO_DATA / file).open("rb") as opened:
        text = invoices.decode(opened.read(), file=file)
    parsed = invoices.parse(text, file=file, limit=request.limit)
    context.file, context.invoice_count = file, len(parsed.invoices)
    ctx.describe(title=ctx.title or f"{len(parsed.invoices)} invoices from {file[:100]}")
    return parsed


@step
def validate(file: InvoiceFile) -> ValidatedFile:
    """Check every row by itself."""
    return ValidatedFile(**dict(file), problems=invoice_checks.validate(file))


@step
def find_problems(file: ValidatedFile, context: IntakeContext) -> Findings:
    """Find duplicates, wrong totals and invoices above the limit."""
    findings = invoices.summarise(file, [*file.problems, *invoice_checks.compare(file)])
    context.problem_count = len(findings.problems)
    return findings


review = Step.human_in_the_loop(
    "review",
    message_for_user=invoices.question,
    input_schema=InvoiceReview,
    candidates=["group:finance"],
    when=lambda findings: bool(findings.problems),
)


@step(retries=3, transactional=True)
def post(answer: InvoiceReview | Findings, context: IntakeContext, ctx: StepContext) -> Posting:
    """Post the accepted invoices to the ledger, in the transaction that saves this step."""
    decided = answer if isinstance(answer, InvoiceReview) else None
    file = ctx.output_of("parse")
    accepted = invoice_checks.choose(file, ctx.output_of("find_problems"), decided)
    posting = ledger.post(accepted, run_id=ctx.run_id, key=ctx.idempotency_key, invoice_count=len(file.invoices))
    context.posted_total = posting.posted_total
    return posting


registry.register(
    parse >> validate >> find_problems >> review >> post,
    name="invoice-intake",
    version="1.0.0",
    description="Reads a CSV file of invoices, asks about what is wrong with them, posts the rest to the ledger.",
)


# Bank statement


class StatementRequest(Record):
    """Which statement to match."""

    day: date = Field(
        title="Day", description="The bank delivers statements/YYYY-MM-DD.csv in the data folder: reference,amount."
    )


LATE = RetryPolicy(retries=48, backoff=timedelta(minutes=30), longest=timedelta(hours=2), retry_on=NotDelivered)


@step(retry=LATE)
def receive(request: StatementRequest, ctx: StepContext) -> Statement:
    """Take the bank's file, and look again for days while it is not there."""
    ctx.describe(title=ctx.title or f"Statement of {request.day:%d %b %Y}", tags=["bank"])
    return statements.read(request.day)


@step
def match(statement: Statement) -> Matched:
    """Find the posted invoices that it pays."""
    return statements.match(statement)


registry.register(
    receive >> match,
    name="bank-statement",
    version="1.0.0",
    description="Waits for the bank's file of a day and says which posted invoices it pays.",
)


# Release checklist


class ReleaseRequest(Record):
    """What is to be released."""

    repository: str = Field(
        default=".", max_length=200, title="Repository", description="Folder of a git checkout; a dot is this project."
    )
    version: str = Field(
        pattern=r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$", max_length=64, title="Version", description="Such as 1.4.0."
    )


@step
def inspect(request: ReleaseRequest, ctx: StepContext) -> Facts:
    """Look at the git checkout."""
    folder = checkout.find(request.repository)
    ctx.describe(title=ctx.title or f"Release {request.version} of {folder.name[:100]}", tags=["release"])
    return release.inspect(folder, request.version)


@step
def draft_notes(facts: Facts) -> Draft:
    """Go through the checklist and draft the notes from the commits."""
    return release.draft(facts, release.check(facts))


go = Step.human_in_the_loop("go", message_for_user=release.question, input_schema=bool, quorum=2)


@step
def record_release(ctx: StepContext) -> ResultFile:
    """Write the notes and the checklist to a file."""
    return result_file.write(f"releases/{ctx.run_id}.md", release.record(ctx.output_of("draft_notes")))


registry.register(
    inspect >> draft_notes >> go >> record_release,
    name="release-checklist",
    version="1.0.0",
    description="Inspects a git checkout, drafts the release notes, asks two people for a go, records both.",
)


# Data export request


class ExportRequest(Record):
    """Whose data is asked for."""

    email: str = Field(
        pattern=r"^[^@\s]+@[^@\s]+$", max_length=200, title="E-mail address", description="As the customer gave it."
    )


@step
def collect(request: ExportRequest, ctx: StepContext) -> Collected:
    """Collect every row about the person."""
    collected = export.collect(request.email)
    ctx.describe(title=ctx.title or f"Data of customer {collected.subject}", tags=["privacy"])
    return collected


@step
def redact(collected: Collected) -> Redacted:
    """Take out internal columns and other people."""
    return export.redact(collected)


DAY = timedelta(days=1)  # the law gives a month for the answer, and it must be given all the same when that has passed
privacy_review = Step.human_in_the_loop(
    "privacy_review",
    message_for_user=export.question,
    input_schema=PrivacyReview,
    deadline=30 * DAY,
    on_deadline="wait",
    reminders=[20 * DAY, 27 * DAY],
)
hand_over = Step.human_in_the_loop("hand_over", message_for_user=export.release_question, input_schema=bool)


@step
def write_export(ctx: StepContext) -> ResultFile:
    """Write the export file."""
    text = export.contents(ctx.output_of("redact"), ctx.output_of("privacy_review"))
    return result_file.write(f"exports/{ctx.run_id}.json", text)


registry.register(
    collect >> redact >> privacy_review >> hand_over >> write_export,
    name="data-export-request",
    version="1.0.0",
    description="Collects what is stored about a person, redacts it, asks two people, writes the export file.",
)
