"""Lines of the reliability test plan that are no test here: the command that runs one, or what it waits for."""

from __future__ import annotations

from typing import Final

ELSEWHERE: Final = {
    1: "make test",
    3: "make faults",
    4: "make faults FULL=1",
    5: "make faults ARGS=--bugs",
    6: "make faults FULL=1",
    7: "make faults FULL=1",
    8: "make faults FULL=1",
    9: "make faults FULL=1",
    22: "make bench FULL=1",
    29: "make test ARGS=tests/integration/access",
    31: "make test ARGS=tests/integration/access",
    36: "make test ARGS='tests/unit/test_gateway_outbound.py tests/e2e/test_webhooks.py'",
    38: "make test ARGS=tests/e2e/test_webhooks.py",
    39: "make check",
    43: "make check",
}
NOT_YET: Final = {
    15: "nothing is erased or exported on request yet",
    16: "there is no backup command yet",
    19: "there is one version so far; `make check` holds the contract against the published one",
    34: "all processes share one NATS credential so far",
    35: "processes speak without TLS on one machine; the mesh does it elsewhere",
    40: "it needs the network; the lock files carry every hash",
    41: "it needs a registry's scanner; tests/k8s/test_image.py holds the image to its rules",
    42: "there is no console yet",
}


def where(line: int) -> str:
    """What to tell somebody who asks for a line that no test here carries."""
    if line in ELSEWHERE:
        return f"line {line} is another command: {ELSEWHERE[line]}"
    return f"line {line} does not apply yet: {NOT_YET[line]}" if line in NOT_YET else f"there is no line {line}"
