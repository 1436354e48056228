"""What a stack on this machine remembers, and that nobody else can read it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import children, keys, ports
from deploy.local.state import State


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.create()
    return state


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_ports_and_passwords_survive_a_restart(state: State) -> None:
    port, password = state.port("sales-1"), state.password("sales_app")
    again = State(state.root)
    again.create()
    assert (again.port("sales-1"), again.password("sales_app")) == (port, password)


def test_a_remembered_port_that_was_taken_meanwhile_is_replaced(state: State) -> None:
    port = state.port("sales-1")
    with ports.listen(port):
        assert state.port("sales-1") != port


def test_a_stack_beside_us_never_chooses_our_port(state: State) -> None:
    port = state.port("sales-1")
    program = f"from deploy.local import ports; print(ports.is_free({port}), ports.claim({port}))"
    beside = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert beside.stdout == "True False\n"


def test_a_port_that_was_asked_for_and_is_taken_is_an_error_that_names_it(state: State) -> None:
    with ports.listen() as taken:
        number = taken.getsockname()[1]
        with pytest.raises(children.FailedToStart, match=str(number)):
            state.port("http", number)


def test_secrets_are_readable_by_their_owner_alone(state: State) -> None:
    state.password("sales_app")
    keys.make(state, {"sales": ["sales", "contacts"]})
    state.write_env({"RAPPORT_API_KEY": "x"})
    assert mode(state.root) == 0o700
    private = [state.env_file, state.root / "remembered.json", *state.root.glob("keys/*")]
    assert {mode(path) for path in private} == {0o600}


def test_keys_are_made_once(state: State) -> None:
    keys.make(state, {"sales": ["contacts"]})
    before = {path.name: path.read_text() for path in state.root.glob("keys/*")}
    keys.make(state, {"sales": ["contacts"]})
    assert {path.name: path.read_text() for path in state.root.glob("keys/*")} == before
    trust = json.loads(state.key("trust.json").read_text())
    assert trust["sales"]["may_call"] == ["contacts"]
    assert "BEGIN PUBLIC KEY" in trust["sales"]["public_keys"][0]
    assert len(bytes.fromhex(state.key("token.key").read_text())) == 32


def test_a_reused_process_id_is_not_taken_for_the_part(state: State) -> None:
    state.record({"sales-1": {"pid": os.getpid(), "kind": "sales"}})
    assert "sales-1" in state.processes()
    entries = json.loads(state.processes_file.read_text())
    entries["sales-1"]["started"] -= 60
    state.processes_file.write_text(json.dumps(entries))
    assert state.processes() == {}


def test_the_env_file_holds_values_with_equals_signs(state: State) -> None:
    state.write_env({"RAPPORT_API_KEY": "a=b=", "RAPPORT_URL": "http://127.0.0.1:1"})
    assert state.env() == {"RAPPORT_API_KEY": "a=b=", "RAPPORT_URL": "http://127.0.0.1:1"}
