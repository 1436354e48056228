"""Every planted bug still finds what it patches. Each is planted in a process of its own: patches do not come off."""

import os
import subprocess
import sys

from deploy.local.parts import CHECKOUT

PLANT_EACH = """
import os, sys
import gateway.__main__, services.activities.__main__, services.contacts.__main__
import services.marketing.__main__, services.sales.__main__
from tests.faults.bugs import BUGS

failed = []
for name, bug in BUGS.items():
    pid = os.fork()
    if not pid:
        bug.plant()
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        failed.append(name)
print(*failed)
"""


def test_every_bug_can_be_planted() -> None:
    env = os.environ | {"PYTHONPATH": f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'gen'}"}
    done = subprocess.run(
        [sys.executable, "-c", PLANT_EACH], cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
