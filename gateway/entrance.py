"""The way in that both doors share: where there is room, whose call it is."""

from __future__ import annotations

from chassis import telemetry
from chassis.context import Caller
from chassis.contract import Method
from chassis.errors import Unauthenticated
from gateway.admission import Admission
from gateway.audit.reads import ReadLog
from gateway.identity.authenticate import Authenticator


class Entrance:
    """Lets callers in."""

    def __init__(self, authenticator: Authenticator, admission: Admission, reads: ReadLog) -> None:
        self._authenticator = authenticator
        self._admission = admission
        self._reads = reads

    async def caller(self, authorization: str, method: Method | None, request_id: str) -> Caller:
        """Whose call it is; an agent's names no method yet.

        Raises what says that there is no room, and Unauthenticated, which the log of reads learns of.
        """
        if self._admission.closed(authorization, reads=method is None or not method.writes):
            raise self._admission.gate.refusal()
        try:
            caller = await self._authenticator.caller(authorization)
        except Unauthenticated as failure:
            self._reads.turned_away(method, failure, request_id)
            raise
        self._admission.learn(authorization, caller.tenant)
        telemetry.note_tenant(caller.tenant)
        return caller
