"""The command line itself: what is asked wrongly ends in one clear line, and figures read well."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cli import render, reports, settings
from cli.importing.directory import any_of, chunks
from cli.problems import Problem

CHECKOUT = Path(__file__).resolve().parents[2]
# Nothing listens on the discard port of this machine.
NOWHERE = {"RAPPORT_URL": "http://127.0.0.1:9", "RAPPORT_API_KEY": "none"}


def rapport(*arguments: str, environment: Mapping[str, str] = NOWHERE) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAPPORT_")}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments], capture_output=True, text=True, timeout=60, cwd=CHECKOUT,
        env={**inherited, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'gen'}", **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["fetch"], 2, "Unknown command"),
        (["list"], 2, "requires an argument"),
        (["list", "leeds"], 2, "no resource 'leeds'; there are contacts, companies"),
        (["list", "leads", "--limit", "0"], 2, "--limit 0: at least 1"),
        (["overview", "lead_01h455vb4pex5vsknk084sn02q"], 2, "an overview is of a contact or a company"),
        (["revert", "lead_01h455vb4pex5vsknk084sn02q"], 2, "say which: --revision N, or --as-of TIME"),
        (["get", "nonsense"], 2, "'nonsense' is not an id"),
        (["get", "lead_01h455vb4pex5vsknk084sn02q"], 1, "start the platform with `make up`"),
        (["funnel", "--by", "colour"], 2, "colour"),
        (["trace", "12"], 2, "is not a trace id"),
        (["trace", "0" * 32], 1, "set RAPPORT_TRACES_URL"),
        (["create", "leads", "email"], 2, "write field=value"),
        (["create", "leads", "--json-body", "{"], 2, "not JSON"),
        (["import", "leads", "missing.csv"], 1, "cannot read missing.csv"),
        (["import", "leads", "FILE"], 2, "use --map external_id=column"),
        (["import", "leads", "FILE", "--map", "external_id=idd"], 2, "did you mean 'id'?"),
        (["import", "leads", "FILE", "--map", "external_id=id", "--time-zone", "Mars"], 2, "not an IANA name"),
        (["import", "leads", "FILE", "--map", "external_id=id", "--currency", "reais"], 2, "ISO 4217"),
        (["import", "leads", "FILE", "--map", "external_id=id", "--batch", "5000"], 2, "between 1 and 1000"),
        (["import", "deals", "FILE", "--map", "external_id=id", "--convert-leads"], 2, "needs --map lead=column"),
        (["import", "deals", "FILE", "--map", "external_id=id", "--map", "lead=id"], 2, "--convert-leads"),
    ],
)
def test_a_mistake_ends_in_one_clear_line(tmp_path: Path, arguments: list[str], code: int, complaint: str) -> None:
    (tmp_path / "leads.csv").write_text("id,display_name\n1,Ana\n")
    ended = rapport(*(str(tmp_path / "leads.csv") if word == "FILE" else word for word in arguments))
    assert complaint in ended.stderr
    assert ended.stderr.startswith("rapport: ")
    assert ended.stderr.count("\n") == 1
    assert (ended.returncode, ended.stdout) == (code, "")


def test_the_launcher_runs_from_anywhere(tmp_path: Path) -> None:
    link = tmp_path / "rapport"
    link.symlink_to(CHECKOUT / "bin" / "rapport")
    ended = subprocess.run([link, "--version"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (ended.stdout, ended.stderr) == ("0.1.0\n", "")


def test_the_key_of_the_platform_here_is_not_sent_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env").write_text("RAPPORT_URL=http://127.0.0.1:8080\nRAPPORT_API_KEY=mine\n")
    monkeypatch.setenv("RAPPORT_STATE_DIR", str(tmp_path))
    for name in ("RAPPORT_URL", "RAPPORT_API_KEY", "RAPPORT_TRACES_URL"):
        monkeypatch.delenv(name, raising=False)
    assert settings.load() == settings.Settings("http://127.0.0.1:8080", "mine", "")
    monkeypatch.setenv("RAPPORT_URL", "https://crm.example/")
    with pytest.raises(Problem, match=r"no API key for https://crm\.example"):
        settings.load()


def test_figures_read_well() -> None:
    assert render.money({"currency_code": "USD", "units": "10005534"}) == "10,005,534 USD"
    assert render.money({"currency_code": "BRL", "units": "-1", "nanos": -500_000_000}) == "-1.50 BRL"
    assert render.money({"currency_code": "EUR"}) == "0 EUR"
    assert render.duration("1272000s") == "14.7 d"
    assert render.duration(None) == "–"
    assert [render.seconds(value) for value in (0.0000125, 0.25, 3.0, 90.0)] == ["12.5 µs", "250 ms", "3 s", "1.5 min"]
    assert render.percent(0.10525, 3) == "10.525 %"
    assert [reports.p_value(p) for p in (None, 4.2e-10, 0.0031, 0.6)] == ["", "4e-10", "0.003", "0.600"]
    assert render.bar(1, 2, 4) == "██  "
    assert render.interval_bar(0.5, 0.25, 0.75, 1.0, 8) == "██━━●━━ "


def test_names_are_looked_up_in_filters_that_fit_an_address() -> None:
    names = [f"Company {number}" for number in range(500)] + ["x" * 5_000, 'quoted "name"']
    portions = list(chunks(names))
    assert [name for portion in portions for name in portion] == names
    assert all(len(portion) == 1 or len(any_of(portion)) < 8_000 for portion in portions)
    assert all(len(portion) <= 50 for portion in portions)
    assert any_of(['a"b']) == 'display_name = "a\\"b" OR external_ids.id = "a\\"b"'
