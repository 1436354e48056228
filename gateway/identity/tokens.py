"""Tokens for those who call a service directly, past the gateway."""

from __future__ import annotations

from crm.gateway.v1 import token_pb2 as pb

from chassis import context
from chassis.service import Service
from chassis.work import View


class Tokens(Service, serves="crm.gateway.v1.TokenService"):
    """Makes the same short-lived tokens that the gateway calls services with."""

    async def CreateToken(self, request: pb.CreateTokenRequest, _view: View) -> pb.CreateTokenResponse:
        """A token for the caller itself, with its own permissions and no more."""
        caller = context.current().caller
        token, expiry = self.platform.signer.mint(request.audience, caller)
        answer = pb.CreateTokenResponse(token=token)
        answer.expire_time.FromSeconds(int(expiry))
        if caller.access is not None:
            answer.access = caller.access.encoded
        return answer
