"""From a credential to a caller, checked against the database at most a second ago."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import bindparam, select, update

from chassis import ids, telemetry
from chassis.context import Caller, Restraint
from chassis.db import Database
from chassis.errors import Failure, Reason, Unauthenticated
from chassis.rows import moment, timestamp
from chassis.tokens import FRESH_S
from gateway.identity import bearer, keys, rights, scopes
from gateway.identity.api_keys import RESOURCE
from gateway.identity.oauth import AccessTokens
from gateway.identity.sign_in import SignIn
from gateway.identity.tables import NOBODY, api_keys, credentials

_CACHE_LIMIT = 10_000
_USE_STEP = timedelta(minutes=1)

log = telemetry.logger()

_FIND = select(credentials.c.digest, credentials.c.tenant_id, credentials.c.api_key_id).where(
    credentials.c.digest == bindparam("digest")
)
_READ = select(
    api_keys.c.scopes,
    api_keys.c.expire_time,
    api_keys.c.user_id,
    api_keys.c.service_account_id,
    api_keys.c.delete_time,
    api_keys.c.last_use_time,
    api_keys.c.agent,
).where(api_keys.c.tenant_id == bindparam("tenant"), api_keys.c.id == bindparam("id"))
# Use is noted on the row alone: it is no change of the record, so it has no revision and no event.
_NOTE_USE = (
    update(api_keys)
    .where(api_keys.c.tenant_id == bindparam("tenant"), api_keys.c.id == bindparam("key_id"))
    .values(last_use_time=bindparam("now"), record=bindparam("kept"))
)


class Recognised(Unauthenticated):
    """A refusal of a credential that is known, to ``known``: the tenant it belonged to, and itself."""

    def __init__(self, message: str, known: Caller) -> None:
        super().__init__(Reason.REASON_UNAUTHENTICATED, message)
        self.known = known


class Authenticator:
    """Checks API keys and tokens. What it found is good for a second, then it looks again."""

    def __init__(self, db: Database, sign_in: SignIn | None = None, tokens: AccessTokens | None = None) -> None:
        self._db = db
        self._sign_in = sign_in
        self._tokens = tokens
        self._known: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._looking: dict[bytes, tuple[asyncio.Task[Caller], float]] = {}

    async def caller(self, authorization: str) -> Caller:
        """The caller behind the value of ``authorization``.

        Raises Unauthenticated where it is missing, unknown, expired or revoked, Unavailable without database.
        """
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise _refused("send 'Authorization: Bearer <API key or token>'")
        if not (_is_key(secret) or (self._sign_in is not None and secret.count(".") == 2)):
            raise _refused("the credential is neither an API key, which begins with 'rap_', nor a signed token")
        digest = keys.digest(secret)
        known = self._known.get(digest)
        now = time.monotonic()
        if known is not None and known[1] > now:
            return known[0]
        caller, began = await self._look_up_once(digest, now, secret)
        self._known[digest] = (caller, began + FRESH_S)
        self._known.move_to_end(digest)
        while len(self._known) > _CACHE_LIMIT:
            self._known.popitem(last=False)
        return caller

    async def _look_up_once(self, digest: bytes, now: float, secret: str) -> tuple[Caller, float]:
        """One look for all calls that come with the credential meanwhile, and when it began."""
        looking = self._looking.get(digest)
        if looking is None or looking[1] < now - FRESH_S:
            found = self._look_up(digest) if _is_key(secret) else self._by_token(bearer.read(secret))
            looking = self._looking[digest] = asyncio.create_task(found), now
        try:
            # Whoever goes away does not end it for the others.
            return await asyncio.shield(looking[0]), looking[1]
        finally:
            if self._looking.get(digest) is looking and looking[0].done():
                del self._looking[digest]

    async def _look_up(self, digest: bytes) -> Caller:
        async with self._db.read(NOBODY) as tx:
            found = await tx.rows(_FIND, {"digest": digest})
        if not found or not hmac.compare_digest(bytes(found[0].digest), digest):
            raise _refused("the API key is unknown or revoked")
        return await self._holder(found[0].tenant_id, found[0].api_key_id)

    async def _by_token(self, claimed: bearer.Claimed) -> Caller:
        if self._tokens is not None and claimed.issuer == self._tokens.issuer:
            grant = self._tokens.read(claimed)
            holder = await self._holder(grant.tenant, grant.key_id)
            return replace(holder, scopes=scopes.meet(holder.scopes, grant.scopes))
        if self._sign_in is None:
            raise bearer.refused()
        return await self._sign_in.caller(claimed)

    async def _holder(self, tenant: UUID, key_id: UUID) -> Caller:
        """Whoever holds an API key, as it is now."""
        credential = ids.encode("api_key", key_id)
        known = Caller(tenant, credential, frozenset(), credential=credential)
        async with self._db.read(tenant) as tx:
            rows = await tx.rows(_READ, {"id": key_id})
            acting = await rights.holder(tx, rows[0].user_id, rows[0].service_account_id) if rows else ("", None)
        if acting is None:
            raise Recognised("whom the API key acts for is gone or suspended", known)
        now = datetime.now(UTC)
        if not rows or rows[0].delete_time is not None:
            raise Recognised("the API key is unknown or revoked", known)
        row = rows[0]
        if row.expire_time is not None and row.expire_time <= now:
            raise Recognised("the API key has expired", known)
        if row.last_use_time is None or now - row.last_use_time >= _USE_STEP:
            await self._note_use(tenant, key_id, now)
        given, held = frozenset(row.scopes), acting[1]
        caller = Caller(tenant, acting[0] or credential, given, issuer="gateway", credential=credential)
        if held is not None:
            caller = replace(caller, scopes=scopes.meet(given, held.scopes), access=held.access)
        if row.agent is None:
            return caller
        # What an agent does shows under its own name, whosever rights it has.
        restraint = Restraint.PROPOSES if row.agent.get("may_propose") else Restraint.READS
        return replace(caller, principal=credential, restraint=restraint)

    async def _note_use(self, tenant: UUID, key_id: UUID, now: datetime) -> None:
        try:
            async with self._db.write(tenant) as tx:
                key = RESOURCE.read((await tx.rows(RESOURCE.lock_one, {"id": key_id}))[0])
                if key.HasField("last_use_time") and now - moment(key.last_use_time) < _USE_STEP:
                    return
                minute = now.replace(second=0, microsecond=0)
                key.last_use_time.CopyFrom(timestamp(minute))
                await tx.execute(_NOTE_USE, {"key_id": key_id, "now": minute, "kept": key.SerializeToString()})
        except Failure as failure:
            # The call itself must not fail because a note could not be taken.
            log.warning("the use of an API key was not noted", exc_info=failure)


def _is_key(secret: str) -> bool:
    return secret.startswith(keys.LEAD) and len(secret) <= 200


def _refused(message: str) -> Unauthenticated:
    return Unauthenticated(Reason.REASON_UNAUTHENTICATED, message)
