"""Pages of ``docs/`` as programs: their blocks run as written, and what they show must come out.

A page has blocks of commands (``sh``), which run in one shell, one after the other, and may have blocks of a program
(``python``, ``ts``), which are written in their order to ``quickstart.py`` or ``quickstart.mts`` for commands to run. A
block of ``json`` or ``text`` straight after one of these is what that one prints. Ids, times and secrets differ from
run to run, and ``…`` stands for anything; white space is for the reader. Blocks of other kinds are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from deploy.local.parts import CHECKOUT
from tests.running import Client

DOCS = CHECKOUT / "docs"
PROGRAMS = {"python": ('print("{}", flush=True)\n', "quickstart.py"), "ts": ('console.log("{}");\n', "quickstart.mts")}
_MARK = "==== block {} ===="
_DIFFERS = {
    r"(?<![a-z_])([a-z_]+)_[0-9a-hjkmnp-tv-z]{26}\b": r"\1_*",
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "*uuid*",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)": "*time*",
    r"(?:rap|whsec)_[\w+/=…-]+": "*secret*",
    r"\b[0-9a-f]{32}\b": "*trace*",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and what it is said to print (nothing said where None)."""

    number: int
    language: str
    text: str
    shows: str | None


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that run, in their order."""
    text = page.read_text()
    tokens, found = MarkdownIt("commonmark").parse(text), []
    programs = [language for language, (_, name) in PROGRAMS.items() if name in text]
    for number, (token, after) in enumerate(zip(tokens, [*tokens[1:], None], strict=True)):
        if token.type == "fence" and (token.info == "sh" or token.info in programs):
            shown = after is not None and after.type == "fence" and after.info in ("json", "text")
            found.append(Block(number, token.info, token.content, after.content if shown and after else None))
    return found


def printed(page: Path, client: Client, address: str, folder: Path) -> tuple[dict[int, str], str]:
    """Runs a page in a folder: what each block printed, by its number, and everything said on standard error.

    Raises AssertionError where a command of the shell failed that was not to fail.
    """
    script = "set -eu\n"
    for block in blocks(page):
        mark = _MARK.format(block.number)
        if block.language == "sh":
            script += f"echo '{mark}'\n{block.text}\n"
        else:
            line, name = PROGRAMS[block.language]
            with (folder / name).open("a") as program:
                program.write(line.format(mark) + block.text)
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{CHECKOUT / 'bin'}:{os.environ['PATH']}",
        "RAPPORT_URL": client.url, "RAPPORT_GRPC": address, "RAPPORT_API_KEY": client.key,
        "PIP_NO_INDEX": "1", "PYTHONPATH": "", "PYTHONWARNINGS": "",
    }  # fmt: skip
    ran = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=560)
    assert ran.returncode == 0, f"{page.name} ended with {ran.returncode}:\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    parts = re.split(_MARK.format(r"(\d+)") + "\n", ran.stdout)
    said: dict[int, str] = {}
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        said[int(number)] = said.get(int(number), "") + text
    return said, ran.stderr


def differences(page: Path, said: dict[int, str], stderr: str) -> Iterator[str]:
    """What blocks print otherwise than their page shows."""
    for block in blocks(page):
        if block.number not in said:
            yield f"{page.name}: this did not run:\n{block.text}\n{stderr}"
        elif block.shows is None and '{"error":' in said[block.number]:
            yield f"{page.name}:\n{block.text}fails with {said[block.number]}"
        elif block.shows is not None and not same(block.shows, said[block.number]):
            yield f"{page.name}:\n{block.text}shows\n{block.shows}but prints\n{said[block.number]}{stderr}"


def same(shown: str, printed: str) -> bool:
    """Whether a text is the shown one, but for what differs from run to run."""
    pattern = ".*".join(re.escape(part) for part in _plain(shown).split("…"))
    return re.fullmatch(pattern, _plain(printed)) is not None


def _plain(text: str) -> str:
    for pattern, name in _DIFFERS.items():
        text = re.sub(pattern, name, text)
    return re.sub(r"\s+", "", text)
