"""Which methods can be proposed, and which an agent may call by itself."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from typing import Final

from chassis.context import Caller, Restraint
from chassis.contract import Method, load
from chassis.errors import Denied, Reason, invalid

PROPOSE: Final = "/crm.gateway.v1.ProposalService/CreateProposal"


def check_restraint(method: Method, caller: Caller) -> None:
    """Raises Denied, PROPOSAL_REQUIRED, where an agent would change something by itself."""
    if caller.restraint is Restraint.NONE or not method.writes or method.path == PROPOSE:
        return
    what = "a proposal asks for it: POST /v1/proposals" if caller.restraint is Restraint.PROPOSES else "it only reads"
    raise Denied(Reason.REASON_PROPOSAL_REQUIRED, f"the key of an agent changes nothing by itself; {what}")


@lru_cache(maxsize=1)
def proposable() -> dict[str, Method]:
    """The methods that can be proposed, by name: those that change one record, beside the gateway's own.

    Who may do what is not for agents to change, and what a batch would do is too much to look through.
    """
    return {
        method.name: method
        for method in load().methods.values()
        if method.writes
        and method.home != "gateway"
        and not method.name.startswith("Batch")
        and {"request_id", "validate_only"} <= set(method.descriptor.input_type.fields_by_name)
    }


def named(place: str, name: str) -> Method:
    """The method of this name. Raises Invalid where there is none that can be proposed."""
    if not name:
        raise invalid(place, "it is required", Reason.REASON_FIELD_REQUIRED)
    found = proposable().get(name)
    if found is None:
        near = get_close_matches(name, proposable(), 1)
        hint = f"; did you mean '{near[0]}'?" if near else "; one looks like 'UpdateContact'"
        raise invalid(place, f"it is no method that can be proposed{hint}")
    return found


def check_may(caller: Caller, method: Method, what: str) -> None:
    """Raises Denied where the caller has not the permission of a method; ``what`` it wanted says the message."""
    if not caller.may(method.permission):
        text = f"{what} needs the permission '{method.permission}'"
        raise Denied(Reason.REASON_PERMISSION_DENIED, text, metadata={"permission": method.permission})
