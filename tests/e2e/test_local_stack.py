"""The platform on one machine: it comes up, heals, keeps its data, and leaves nothing behind."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local import children, control, ports
from deploy.local.parts import CHECKOUT, KINDS
from deploy.local.state import State


def call(env: dict[str, str], method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    request = urllib.request.Request(
        env["RAPPORT_URL"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {env['RAPPORT_API_KEY']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def command(state: State, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", *words],
        check=False,
        cwd=CHECKOUT,
        env={"PATH": "/usr/bin:/bin", "RAPPORT_STATE_DIR": str(state.root), "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    directory = tmp_path_factory.mktemp("stack")
    directory.chmod(0o700)
    state = State(directory / "state")
    yield state
    control.reset(state)


@pytest.fixture(scope="module")
def env(state: State) -> dict[str, str]:
    return control.up(state.root, replicas=2)


def test_two_of_each_run_and_are_ready(env: dict[str, str], state: State) -> None:
    running = state.processes()
    expected = {f"{kind}-{n}" for kind in KINDS for n in (1, 2)} | {
        "postgres",
        "nats",
        "traces",
        "supervisor",
    }
    assert set(running) == expected
    assert all(entry["ready"] for name, entry in running.items() if name != "supervisor")
    assert call(env, "GET", "/v1/companies")


def test_a_second_one_in_the_same_directory_is_refused(env: dict[str, str], state: State) -> None:
    refused = command(state, "up")
    assert refused.returncode == 1
    assert "already runs" in refused.stderr
    assert "make down" in refused.stderr


def test_a_part_that_dies_starts_again(env: dict[str, str], state: State) -> None:
    before = state.processes()
    for part in ("sales", "nats", "gateway-1"):
        control.kill(state, part)
    assert children.poll_until(lambda: before["sales-1"]["pid"] != state.processes().get("sales-1", {}).get("pid"), 20)
    control.wait_ready(state)
    after = state.processes()
    for name in ("sales-1", "sales-2", "nats", "gateway-1"):
        assert after[name]["pid"] != before[name]["pid"]
    for name in ("postgres", "contacts-1", "gateway-2"):
        assert after[name]["pid"] == before[name]["pid"]


def test_a_rolling_restart_fails_no_request(env: dict[str, str], state: State) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.local", "restart", "gateway"],
        cwd=CHECKOUT,
        env={"PATH": "/usr/bin:/bin", "RAPPORT_STATE_DIR": str(state.root), "PYTHONPATH": str(CHECKOUT)},
    ) as restarting:
        calls = 0
        while restarting.poll() is None:
            call(env, "GET", "/v1/companies?page_size=1")
            calls += 1
    assert restarting.returncode == 0
    assert calls > 0


def test_a_write_does_not_wait_for_nats(env: dict[str, str], state: State) -> None:
    control.hold(state, "nats")
    try:
        assert "nats" not in state.processes()
        made = call(env, "POST", "/v1/companies", {"display_name": "Written without NATS"})
        assert call(env, "GET", f"/v1/companies/{made['id']}")["display_name"] == "Written without NATS"
    finally:
        control.release(state)
    assert state.processes()["nats"]["ready"]


def test_data_keys_and_ports_survive_the_supervisors_violent_end(env: dict[str, str], state: State) -> None:
    made = call(env, "POST", "/v1/companies", {"display_name": "Kept"})
    parts = {name: entry["pid"] for name, entry in state.processes().items()}
    control.kill_supervisor(state)
    assert children.poll_until(lambda: not any(map(children.started, parts.values())), timeout_s=40)
    again = control.up(state.root)
    assert again["RAPPORT_API_KEY"] == env["RAPPORT_API_KEY"]
    assert call(again, "GET", f"/v1/companies/{made['id']}")["display_name"] == "Kept"


def test_down_leaves_nothing_running(env: dict[str, str], state: State) -> None:
    if not control.is_up(state):
        control.up(state.root)
    http_port = int(state.env()["RAPPORT_URL"].rsplit(":", 1)[1])
    pids = [entry["pid"] for entry in state.processes().values()]
    down = command(state, "down")
    assert (down.returncode, down.stdout) == (0, "Rapport is down\n")
    assert not any(map(children.started, pids))
    assert not ports.accepts(http_port)
    assert not state.env_file.exists()
    assert command(state, "status").stdout == "nothing runs\n"


def test_a_part_that_cannot_start_is_named_with_its_last_words(state: State) -> None:
    with pytest.raises(children.FailedToStart) as failure:
        control.up(state.root, env={"RAPPORT_CONTRACT": str(Path("/nonexistent/contract.binpb"))})
    assert "contract.binpb" in str(failure.value)
    assert not control.is_up(state)
