"""How much a client may ask for: token buckets for each tenant and each principal, and the headers that tell.

A bucket holds ``burst`` requests and fills at a rate a second; a request takes one, a large one more (J. Turner, "New
Directions in Communications", 1986). The headers are those of draft-ietf-httpapi-ratelimit-headers-10. Each gateway
process counts for itself: with N of them a client that spreads its calls may have N times as much.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, NamedTuple

from crm.gateway.v1 import limit_pb2 as pb

from chassis import context
from chassis.context import Caller
from chassis.errors import Exhausted, Reason
from chassis.query.page import MAX_SIZE
from chassis.service import DEFAULT_DEADLINE_S, MAX_DEADLINE_S, Platform, Service
from chassis.settings import Settings
from chassis.standard import MAX_BATCH
from chassis.work import View
from gateway.transcode import BODY_LIMIT

# What a body costs besides the request itself: one for each so many bytes, so that a batch pays by its size.
BYTES_FOR_ONE: Final = 64 * 1024
_KNOWN_LIMIT: Final = 20_000


class Policy(NamedTuple):
    """A bucket's name, how fast it fills, in requests a second, and how many it holds."""

    name: str
    rate: float
    burst: float

    @property
    def declared(self) -> str:
        """The policy as ``RateLimit-Policy`` tells it: the quota, and the seconds in which it fills from nothing."""
        return f'"{self.name}";q={int(self.burst)};w={math.ceil(self.burst / self.rate)}'


class Ration(NamedTuple):
    """What one caller has left in the bucket that has least, after its request."""

    policy: Policy
    left: float
    full_in_s: float

    @property
    def told(self) -> str:
        """The ration as ``RateLimit`` tells it."""
        return f'"{self.policy.name}";r={int(self.left)};t={math.ceil(self.full_in_s)}'


class Buckets:
    """The buckets of one policy. The longest unused are forgotten: by then they are full again."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def level(self, key: Hashable, now: float) -> float:
        """How much is in a bucket at this moment of the monotonic clock."""
        known = self._levels.get(key)
        if known is None:
            return self.policy.burst
        return min(self.policy.burst, known[0] + (now - known[1]) * self.policy.rate)

    def set(self, key: Hashable, level: float, now: float) -> None:
        """Sets what is left in a bucket."""
        self._levels[key] = (level, now)
        self._levels.move_to_end(key)
        if len(self._levels) > _KNOWN_LIMIT:
            self._levels.popitem(last=False)

    def ration(self, level: float) -> Ration:
        """What a level of this policy's buckets means."""
        return Ration(self.policy, level, (self.policy.burst - level) / self.policy.rate)


class Limits:
    """Every bucket of one gateway process."""

    def __init__(self, settings: Settings) -> None:
        self._tenants = Buckets(Policy("tenant", settings.rate_tenant, settings.burst_tenant))
        self._principals = Buckets(Policy("principal", settings.rate_principal, settings.burst_principal))
        self.policy = f"{self._principals.policy.declared}, {self._tenants.policy.declared}"

    def _each(self, caller: Caller) -> tuple[tuple[Buckets, Hashable], ...]:
        return (self._principals, (caller.tenant, caller.principal)), (self._tenants, caller.tenant)

    def spend(self, caller: Caller, size: int, told: dict[str, str]) -> None:
        """Takes what a request with a body of ``size`` bytes costs, and adds the headers that tell of it to ``told``.

        Raises Exhausted, RATE_LIMITED, where a bucket has too little; then nothing is taken from any. A request that
        costs more than a whole bucket passes where the bucket is full.
        """
        now = time.monotonic()
        cost = 1.0 + size // BYTES_FOR_ONE
        levels = [(buckets, key, buckets.level(key, now)) for buckets, key in self._each(caller)]
        told["ratelimit-policy"] = self.policy
        for buckets, _, level in levels:
            wanted = min(cost, buckets.policy.burst)
            if level < wanted:
                told["ratelimit"] = buckets.ration(level).told
                raise _refusal(buckets.policy, (wanted - level) / buckets.policy.rate)
        for buckets, key, level in levels:
            buckets.set(key, max(0.0, level - cost), now)
        told["ratelimit"] = min((each.ration(max(0.0, level - cost)) for each, _, level in levels), key=_part).told

    def rations(self, caller: Caller) -> list[Ration]:
        """What the caller has left now in each of its buckets."""
        now = time.monotonic()
        return [buckets.ration(buckets.level(key, now)) for buckets, key in self._each(caller)]


def _part(ration: Ration) -> float:
    return ration.left / ration.policy.burst


def _refusal(policy: Policy, wait_s: float) -> Exhausted:
    text = f"this {policy.name} may send {policy.rate:g} requests a second; wait {wait_s:.2f} s"
    return Exhausted(Reason.REASON_RATE_LIMITED, text, metadata={"policy": policy.name}, retry_s=max(wait_s, 0.001))


class LimitsService(Service, serves="crm.gateway.v1.LimitService"):
    """Tells a caller its limits."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self.limits = Limits(platform.settings)

    async def GetLimits(self, _request: pb.GetLimitsRequest, _view: View) -> pb.Limits:
        """The caller's own buckets, and the bounds that hold for everyone."""
        settings = self.platform.settings
        found = pb.Limits(
            max_request_bytes=BODY_LIMIT,
            max_page_size=MAX_SIZE,
            max_batch_size=MAX_BATCH,
            concurrent_calls=settings.concurrency_calls,
        )
        found.default_deadline.FromMilliseconds(int(DEFAULT_DEADLINE_S * 1000))
        found.max_deadline.FromMilliseconds(int(MAX_DEADLINE_S * 1000))
        for ration in self.limits.rations(context.current().caller):
            rate = found.rate_limits.add(
                name=ration.policy.name,
                requests_per_second=ration.policy.rate,
                burst=int(ration.policy.burst),
                remaining=int(ration.left),
            )
            rate.full_in.FromMilliseconds(int(ration.full_in_s * 1000))
        return found
