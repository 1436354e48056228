"""One search over all that the platform keeps: every service is asked at once, and what they find is merged."""

from __future__ import annotations

import asyncio
from typing import Final

from crm.gateway.v1 import search_pb2 as pb
from crm.internal.v1 import search_pb2 as internal

from chassis import telemetry
from chassis.clients import HOP_MARGIN_S
from chassis.context import Call
from chassis.contract import ResourceType, load
from chassis.errors import DeadlineExceeded, Reason, Unavailable, invalid
from chassis.search.service import response, size_of
from chassis.search.texts import is_searched
from chassis.service import Service, saga
from chassis.work import View

_PATH: Final = "/crm.internal.v1.SearchService/Search"
# A part that has not answered by then is left out: somebody is waiting for the others.
_PATIENCE_S: Final = 2.0

log = telemetry.logger()


class Searches(Service, serves="crm.gateway.v1.SearchService"):
    """Finds records of every kind."""

    @saga
    async def Search(self, request: pb.SearchRequest, call: Call) -> pb.SearchResponse | bytes:
        """The best results of all services, and the types of those that did not answer.

        Raises Invalid for an unknown type; Unavailable where none of the services answers.
        """
        kinds = _wanted(list(request.types), call)
        homes = sorted({each.home for each in kinds})
        left = min(_PATIENCE_S, call.remaining_s() - HOP_MARGIN_S)
        answers = await asyncio.gather(*(self._ask(home, kinds, request, left, call) for home in homes))
        if homes and all(answer is None for answer in answers):
            raise Unavailable(Reason.REASON_UNAVAILABLE, "no service answered; try again", retry_s=1)
        if len(answers) == 1 and answers[0] is not None:
            # The results of the one service are the results: the same field, in the same order, as many as wanted.
            return answers[0]
        merged = pb.SearchResponse()
        for home, answer in zip(homes, answers, strict=True):
            if answer is None:
                merged.missing.extend(sorted(each.prefix for each in kinds if each.home == home))
        found = [each for answer in answers if answer for each in internal.SearchResponse.FromString(answer).results]
        found.sort(key=lambda each: (each.score, each.update_time.ToNanoseconds()), reverse=True)
        merged.results.extend(found[: size_of(request.page_size)])
        return merged

    async def _ask(
        self, home: str, kinds: list[ResourceType], request: pb.SearchRequest, left_s: float, call: Call
    ) -> bytes | None:
        """What a service answers, a SearchResponse; None where it cannot say."""
        types = [each.prefix for each in kinds if each.home == home]
        try:
            async with asyncio.timeout(left_s):
                if home == self.platform.kind:
                    async with self.platform.db.read(call.caller.tenant) as tx:
                        own = self.platform.resources.values()
                        return await response(View(tx), own, types, request.query, request.page_size)
                asked = internal.SearchRequest(query=request.query, types=types, page_size=request.page_size)
                return await self.platform.channels.unary(home, _PATH, asked.SerializeToString(), timeout_s=left_s)
        except (Unavailable, DeadlineExceeded, TimeoutError) as error:
            log.warning("search without a part", part=home, error=str(error))
            return None


def _wanted(types: list[str], call: Call) -> list[ResourceType]:
    """The kinds of records to search: those named, or all; of them those that the caller may read.

    Raises Invalid for a type that does not exist or is not searched.
    """
    searched = {each.prefix: each for each in load().resources.values() if is_searched(each.descriptor)}
    for index, name in enumerate(types):
        if name not in searched:
            raise invalid(f"types[{index}]", f"'{name}' is not searched; there are {', '.join(sorted(searched))}")
    return [
        each
        for each in searched.values()
        if (not types or each.prefix in types) and call.caller.may(load().read_permission(each))
    ]
