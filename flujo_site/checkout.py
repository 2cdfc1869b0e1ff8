"""A git checkout on this machine, read without a shell and only inside the allowed folders."""

import os
import subprocess
from pathlib import Path

from django.conf import settings

TIMEOUT_SECONDS = 20


class CheckoutError(RuntimeError):
    """The folder cannot be read as a git checkout."""


def allowed_folders() -> list[Path]:
    """The folders named by `FLUJO_REPOSITORIES`; without the setting, the project's own checkout."""
    folders = getattr(settings, "FLUJO_REPOSITORIES", None) or [settings.BASE_DIR]
    return [Path(folder).resolve() for folder in folders]


def find(path: str) -> Path:
    """The real folder of `path`, relative to the first allowed folder. Raises `CheckoutError` outside of all."""
    if "\0" in path:
        raise CheckoutError("A path has no NUL in it.")
    allowed = allowed_folders()
    folder = (allowed[0] / path).resolve()
    if not any(folder == root or root in folder.parents for root in allowed):
        raise CheckoutError(f"{path} is not inside {' or '.join(map(str, allowed))}.")
    if not folder.is_dir():
        raise CheckoutError(f"{folder} is not a folder.")
    return folder


class Checkout:
    """Runs git in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        top = self.git("rev-parse", "--show-toplevel")
        if Path(top).resolve() != folder:
            raise CheckoutError(f"{folder} is inside the checkout {top}. Name its top folder.")

    def git(self, *arguments: str, missing_is_empty: bool = False) -> str:
        """The output of a git command; with `missing_is_empty`, "" when git finds no such thing."""
        try:
            done = subprocess.run(
                [*self._command(), *arguments],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise CheckoutError("git is not installed.") from error
        except subprocess.TimeoutExpired as error:
            raise CheckoutError(f"git {arguments[0]} took longer than {TIMEOUT_SECONDS} seconds.") from error
        if done.returncode == 0:
            return done.stdout.decode(errors="replace").rstrip("\n")
        if missing_is_empty:
            return ""
        said = done.stderr.decode(errors="replace").strip()
        if "not a git repository" in said:
            raise CheckoutError(f"{self.folder} is not a git repository.")
        raise CheckoutError(f"git {arguments[0]}: {said}")

    def _command(self) -> list[str]:
        """Git in this folder, without its hooks and monitors.

        Naming a folder in the settings vouches for it, whoever owns its files; folders below it stay
        under git's own ownership check.
        """
        vouched = [f"safe.directory={self.folder}"] if self.folder in allowed_folders() else []
        options = ["core.fsmonitor=false", "core.hooksPath=/dev/null", "core.quotePath=false", *vouched]
        return ["git", "--no-pager", "-C", str(self.folder), *(part for option in options for part in ("-c", option))]

    def _environment(self) -> dict[str, str]:
        """Ours without what would point git elsewhere."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return ours | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
