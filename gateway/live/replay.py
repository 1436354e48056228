"""Replay ids: a place in every ledger, sealed for one tenant, good on any gateway process."""

from __future__ import annotations

import struct
from uuid import UUID

from chassis.errors import Invalid, Reason
from chassis.settings import KINDS
from chassis.tokens import Sealer

# The ledgers in the order in which a replay id holds their positions.
LEDGERS = KINDS
_FORM = struct.Struct(f">B{len(LEDGERS)}q")
_VERSION = 1
_LIMIT = 2000

Positions = dict[str, int]


def seal(sealer: Sealer, tenant: UUID, positions: Positions) -> str:
    """The replay id of a place: all that was at or before these positions has been seen."""
    packed = _FORM.pack(_VERSION, *(positions[ledger] for ledger in LEDGERS))
    return sealer.encrypt(packed, _bound_to(tenant))


def unseal(sealer: Sealer, tenant: UUID, replay_id: str) -> Positions:
    """The place that a replay id names. Raises Invalid, REPLAY_ID_INVALID, for a forged one or another tenant's."""
    try:
        if len(replay_id) > _LIMIT:
            raise ValueError("too long")
        version, *positions = _FORM.unpack(sealer.decrypt(replay_id, _bound_to(tenant)))
    except (ValueError, struct.error) as error:
        raise _invalid() from error
    if version != _VERSION or min(positions) < 0:
        raise _invalid()
    return dict(zip(LEDGERS, positions, strict=True))


def _bound_to(tenant: UUID) -> bytes:
    return b"replay " + tenant.bytes


def _invalid() -> Invalid:
    what = "is forged, damaged or another tenant's; use one that this feed gave, or a start_time"
    return Invalid(Reason.REASON_REPLAY_ID_INVALID, f"replay_id: {what}", violations=[("replay_id", what)])
