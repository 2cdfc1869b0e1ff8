"""Throwaway servers: real PostgreSQL and Redis, started on free ports with folders of their own.

Each server runs below a small shell that holds a pipe from the test process. When the pipe closes, because the suite is
over, was interrupted or was killed, the shell stops the server and removes its folder.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

SUPERVISOR = """
folder=$1; shift
exec 3<&0
"$@" </dev/null >"$folder/log" 2>&1 3<&- &
server=$!
(
    cat <&3 >/dev/null
    kill -INT $server 2>/dev/null
    while kill -0 $server 2>/dev/null; do sleep 0.1; done
    rm -rf "$folder"
) &
exec 3<&-
wait $server
"""
START_SECONDS = 60
STOP_SECONDS = 30
ATTEMPTS = 5


class Missing(Exception):
    """A program the tests need is not installed."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(f"{what} is missing (on Debian: apt install {package})")
        self.what, self.package = what, package


def postgres_bin() -> Path:
    """The folder of PostgreSQL's programs, the newest version's where there are several."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    for folder in reversed(folders):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise Missing("PostgreSQL", "postgresql")


def redis_program() -> str:
    """The path of `redis-server`."""
    found = shutil.which("redis-server")
    if not found:
        raise Missing("Redis", "redis-server")
    return found


def chromium_program() -> str:
    """The path of Debian's chromium."""
    found = shutil.which("chromium")
    if not found:
        raise Missing("Chromium", "chromium")
    return found


@dataclass
class Server:
    """One running server; closing it stops the server and removes its folder."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int

    def close(self) -> None:
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait(STOP_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_postgres(*, flush: bool = False) -> Server:
    """A new PostgreSQL cluster; its superuser is `flujo`, from this machine without a password.

    Without `flush` a commit does not wait for the disk: tests look at the protocol, not at this machine's power supply.
    """
    programs = postgres_bin()
    folder = _folder("postgres")
    initdb = [programs / "initdb", "-D", folder / "data", "-U", "flujo", "--auth=trust", "-E", "UTF8", "--no-locale"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **_unprivileged())

    def command(port: int) -> Sequence[str | Path]:
        quick = [] if flush else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        address = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-p", str(port)]
        return [programs / "postgres", "-D", folder / "data", *address, "-c", "max_connections=200", *quick]

    return _start(command, folder, _postgres_answers)


def start_redis() -> Server:
    """A new Redis that keeps nothing on disk."""
    program, folder = redis_program(), _folder("redis")

    def command(port: int) -> Sequence[str | Path]:
        where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        return [program, *where, "--save", "", "--appendonly", "no"]

    return _start(command, folder, _redis_answers)


def new_database(server: Server) -> str:
    """Create an empty database on a PostgreSQL server and return its address."""
    name = f"flujo_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{address(server)}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return f"{address(server)}/{name}"


def address(server: Server) -> str:
    """The address of a PostgreSQL server, without a database."""
    return f"postgres://flujo@127.0.0.1:{server.port}"


def _start(command: Callable[[int], Sequence[str | Path]], folder: Path, answers: Callable[[int], bool]) -> Server:
    """Start on a free port; another program may take it meanwhile, so a server that ends at once is tried again."""
    for _ in range(ATTEMPTS):
        port = _free_port()
        arguments = ["/bin/sh", "-c", SUPERVISOR, "sh", str(folder), *map(str, command(port))]
        process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, cwd=folder, start_new_session=True, **_unprivileged()
        )
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if answers(port):
                return Server(process, folder, port)
            time.sleep(0.05)
        log = (folder / "log").read_text()
        process.communicate()
    raise RuntimeError(f"The server did not start:\n{log}")


def _postgres_answers(port: int) -> bool:
    try:
        psycopg.connect(f"postgres://flujo@127.0.0.1:{port}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _unprivileged() -> dict[str, Any]:
    """How to start a program: PostgreSQL refuses to run as root, so root runs it as the package's own user."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _folder(name: str) -> Path:
    """A new folder that belongs to the user the server runs as."""
    folder = Path(tempfile.mkdtemp(prefix=f"flujo-{name}-"))
    owner = _unprivileged()
    if owner:
        os.chown(folder, owner["user"], owner["group"])
    return folder


def missing_packages() -> list[str]:
    """The Debian packages of the programs that are not installed."""
    packages = []
    for program in (postgres_bin, redis_program, chromium_program):
        try:
            program()
        except Missing as missing:
            packages.append(missing.package)
    return packages


if __name__ == "__main__":
    print(*missing_packages())
