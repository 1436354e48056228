"""Tokens for those who call a service directly, past the gateway."""

from __future__ import annotations

from crm.gateway.v1 import token_pb2 as pb

from chassis.context import Call
from chassis.service import Service, saga


class Tokens(Service, serves="crm.gateway.v1.TokenService"):
    """Makes the same short-lived tokens that the gateway calls services with."""

    @saga
    async def CreateToken(self, request: pb.CreateTokenRequest, call: Call) -> pb.CreateTokenResponse:
        """A token for the caller itself, with its own permissions and no more."""
        token, expiry = self.platform.signer.mint(request.audience, call.caller)
        answer = pb.CreateTokenResponse(token=token)
        answer.expire_time.FromSeconds(int(expiry))
        if call.caller.access is not None:
            answer.access = call.caller.access.encoded
        return answer
