"""The contract's EventService as this process's wrapper knows it: declared, and served by the live feed."""

from __future__ import annotations

from typing import Any

from chassis.errors import Reason, Unimplemented
from chassis.service import Service
from chassis.work import View


class Events(Service, serves="crm.gateway.v1.EventService"):
    """Streams are no calls with one reply: the doors hand them to the live feed before the wrapper."""

    async def Subscribe(self, _request: Any, _view: View) -> Any:
        """Never reached by a client."""
        raise Unimplemented(Reason.REASON_METHOD_UNKNOWN, "Subscribe is a stream")
