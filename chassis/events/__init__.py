"""Events: from every service's ledger through NATS JetStream to what reacts. Only here is nats imported."""

from chassis.change import Change
from chassis.events.consume import GATHER_S, Consumer
from chassis.events.envelope import Arrival
from chassis.events.reactions import Effect, Reaction, on, reactions_of
from chassis.events.relay import Relay, republish
from chassis.events.revoked import Revoked
from chassis.events.tail import Tail
from chassis.events.topology import apply_topology

__all__ = [
    "GATHER_S",
    "Arrival",
    "Change",
    "Consumer",
    "Effect",
    "Reaction",
    "Relay",
    "Revoked",
    "Tail",
    "apply_topology",
    "on",
    "reactions_of",
    "republish",
]
