"""`python -m tests.faults.serve KIND --name NAME --roles … [--bug X]`: a process of the platform that can be broken.

It is the shipped process with patches from outside. Faults that work inside it (`Inject`) are read from a file
named after it, so that they can begin and end while it runs; a planted bug holds from its start.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from chassis.run import Application, main
from tests.faults import bugs, inject, tally
from tests.faults.platform import INJECT


def application(kind: str) -> Application:
    """What the shipped module of a kind of process runs."""
    module = importlib.import_module("gateway.__main__" if kind == "gateway" else f"services.{kind}.__main__")
    found = [value for value in vars(module).values() if isinstance(value, Application)]
    assert len(found) == 1, f"{module.__name__} has {len(found)} applications"
    return found[0]


def run() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.serve", description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("--name", required=True, help="of the process")
    parser.add_argument("--roles", default="serve,relay,consume,timers")
    parser.add_argument("--bug", choices=sorted(bugs.BUGS))
    options = parser.parse_args()
    what = application(options.kind)
    inject.install(Path(os.environ[INJECT]) / options.name)
    if options.kind == tally.SERVICE:
        assert what.reactions is not None
        tally.install(what.reactions)
    if options.bug:
        bugs.BUGS[options.bug].plant()
        print(f"planted: {options.bug}", file=sys.stderr)
    main(what, ["serve", "--roles", options.roles])


if __name__ == "__main__":
    run()
