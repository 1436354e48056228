"""PostgreSQL and NATS from their wheels, as tests and the laptop stack start them."""

import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from deploy.local import children, nats, ports, postgres


async def test_data_survives_a_restart_and_roles_own_nothing(tmp_path: Path) -> None:
    server = postgres.start(tmp_path / "pg")
    try:
        await postgres.create_databases(
            server.dsn_for("postgres"),
            ["sales", "contacts"],
            {f"{name}_{role}": "secret" for name in ("sales", "contacts") for role in postgres.ROLES},
        )
        server.passwords = {"sales_owner": "secret", "sales_app": "secret"}
        owner = await asyncpg.connect(server.dsn_for("sales", "sales_owner"))
        await owner.execute("CREATE TABLE kept (id int)")
        await owner.execute("CREATE EXTENSION pg_trgm")
        await owner.close()
    finally:
        server.stop()

    server = postgres.start(tmp_path / "pg")
    server.passwords = {"sales_owner": "secret", "sales_app": "secret"}
    try:
        owner = await asyncpg.connect(server.dsn_for("sales", "sales_owner"))
        assert await owner.fetchval("SELECT count(*) FROM kept") == 0
        await owner.close()
        app = await asyncpg.connect(server.dsn_for("sales", "sales_app"))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute("CREATE TABLE own (id int)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.fetch("SELECT * FROM kept")
        await app.close()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(server.dsn_for("contacts", "sales_app"))
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(postgres.dsn(server.port, "sales", "sales_app", "guessed"))
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for PostgreSQL")
def test_without_namespaces_root_runs_it_as_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPPORT_POSTGRES_AS_NOBODY", "1")
    tmp_path.chmod(0o700)
    server = postgres.start(tmp_path / "pg")
    try:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert f"\nUid:\t{pwd.getpwnam('nobody').pw_uid}\t" in status
    finally:
        server.stop()
        postgres.remove(tmp_path / "pg" / "data")
    assert not server.data.exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with ports.listen() as taken, pytest.raises(children.FailedToStart, match="could not bind"):
        postgres.start(tmp_path / "pg", port=taken.getsockname()[1])


def test_a_crash_whose_process_id_was_given_away_does_not_block_the_next_start(tmp_path: Path) -> None:
    server = postgres.start(tmp_path / "pg")
    lock = server.data / "postmaster.pid"
    text = lock.read_text()
    server.stop()
    lock.write_text(text.replace(str(server.process.pid), str(os.getppid()), 1))
    postgres.start(tmp_path / "pg").stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children whose parent was killed")
def test_servers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from deploy.local import nats, postgres\n"
        "directory = pathlib.Path(sys.argv[1])\n"
        "print(postgres.start(directory / 'pg').process.pid, nats.start(directory / 'nats').process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert [children.started(pid) is not None for pid in pids] == [True, True]
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert children.poll_until(lambda: all(children.started(pid) is None for pid in pids), timeout_s=20)


def test_nats_asks_for_its_token_and_stores_where_it_was_told(tmp_path: Path) -> None:
    server = nats.start(tmp_path / "nats")
    try:
        assert server.store.is_dir()
        assert "@127.0.0.1:" in server.url
    finally:
        server.stop()
    assert not ports.accepts(server.port)
