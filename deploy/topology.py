"""Make NATS' streams and consumers what the code declares: `python -m deploy.topology`. Safe to repeat.

RAPPORT_NATS_URL says where, RAPPORT_NATS_REPLICAS (default 1) how many servers keep each stream, and
RAPPORT_NATS_MAX_BYTES how large the stream of events may grow.
"""

import asyncio
import os
import sys
from importlib import import_module
from importlib.util import find_spec

from chassis.events import Reaction, apply_topology, reactions_of
from chassis.events.topology import MAX_BYTES

REACTIONS = {
    "contacts": "services.contacts.reactions",
    "activities": "services.activities.reactions",
    "sales": "services.sales.reactions",
    "marketing": "services.marketing.reactions",
    "gateway": "gateway.reactions",
}
WAIT_S = 60  # for a server that is still starting


def declared() -> dict[str, list[Reaction]]:
    """The reactions of every service that has some."""
    found: dict[str, list[Reaction]] = {}
    for service, module in REACTIONS.items():
        package = module.rpartition(".")[0]
        if find_spec(package.partition(".")[0]) and find_spec(package) and find_spec(module):
            found[service] = reactions_of(import_module(module))
    return found


def main() -> None:
    environment = os.environ
    apply = apply_topology(
        environment.get("RAPPORT_NATS_URL", "nats://127.0.0.1:4222"),
        declared(),
        replicas=int(environment.get("RAPPORT_NATS_REPLICAS", "1")),
        max_bytes=int(environment.get("RAPPORT_NATS_MAX_BYTES", str(MAX_BYTES))),
        wait_s=WAIT_S,
    )
    sys.stdout.write(f"streams and consumers: {', '.join(asyncio.run(apply))}\n")


if __name__ == "__main__":
    main()
