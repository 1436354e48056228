"""Processes that are forked from one which has imported for them: they are like those that Python starts anew."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local import children, nursery
from deploy.local.nursery import CHECKOUT, Born, Nursery

pytestmark = pytest.mark.skipif(not nursery.AVAILABLE, reason="the kernel must end what is forked with us")

# What a forked process does here: it says what it was given, draws an id, and ends as it is told.
_MODULE = """
import os, sys, time
from chassis import ids
print(sys.argv[1:], os.environ.get("GIVEN"), os.environ.get("PATH"), __name__, os.getsid(0) == os.getpid())
print(ids.new("task"), flush=True)
if sys.argv[1] == "stay":
    time.sleep(60)
os.write(int(os.environ["FILE"]), b"written")
sys.exit(7)
"""


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    folder = tmp_path_factory.mktemp("nursery")
    (folder / "told.py").write_text(_MODULE)
    path = os.pathsep.join(map(str, (CHECKOUT, CHECKOUT / "gen", folder)))
    made = Nursery(folder / "nursery.log", os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"})
    yield made
    made.end()


async def _born(forks: Nursery, log: Path, *arguments: str, file: int | None = None) -> Born:
    env, files = {"GIVEN": "yes", "FILE": str(file)}, [] if file is None else [file]
    return await forks.bear([*nursery.PYTHON, "told", *arguments], log, env=env, pass_fds=files)


def _gone(pid: int) -> bool:
    return children.started(pid) is None


async def test_forked_processes_get_what_is_theirs_and_draw_ids_of_their_own(forks: Nursery, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        born = [await _born(forks, tmp_path / f"{n}.log", "go", str(n), file=file.fileno()) for n in range(2)]
        assert [await asyncio.to_thread(each.wait) for each in born] == [7, 7]
    logs = [(tmp_path / f"{n}.log").read_text().splitlines() for n in range(2)]
    assert [log[0] for log in logs] == [f"['go', '{n}'] yes None __main__ True" for n in range(2)]
    assert logs[0][1] != logs[1][1]
    assert (tmp_path / "file").read_bytes() == b"written" * 2


async def test_a_signal_ends_one_and_is_told(forks: Nursery, tmp_path: Path) -> None:
    born = await _born(forks, tmp_path / "stay.log", "stay")
    assert born.poll() is None
    assert await asyncio.to_thread(children.poll_until, lambda: children.program(born.pid) == "stay", 10)
    born.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(born.wait) == -signal.SIGTERM
    born.kill()  # it is no more: nobody else is hit


async def test_they_end_with_the_nursery_and_the_next_gets_another(forks: Nursery, tmp_path: Path) -> None:
    first = await _born(forks, tmp_path / "first.log", "stay")
    parent = psutil.Process(first.pid).ppid()
    os.kill(parent, signal.SIGKILL)
    assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
    assert await asyncio.to_thread(children.poll_until, lambda: _gone(first.pid) and _gone(parent), 10)
    second = await _born(forks, tmp_path / "second.log", "stay")
    assert second.poll() is None
    assert psutil.Process(second.pid).ppid() != parent
    second.kill()
    assert await asyncio.to_thread(second.wait) == -signal.SIGKILL
