"""What a gateway process serves with: the HTTP and gRPC doors, and the live feed behind both."""

from __future__ import annotations

import asyncio

from chassis.run import Process, Serving
from gateway.admission import Admission
from gateway.app import App
from gateway.audit.entries import AuditEntries
from gateway.audit.reads import ReadLog
from gateway.batch import Batches, Door
from gateway.entrance import Entrance
from gateway.http import HttpDoor
from gateway.identity.authenticate import Authenticator
from gateway.identity.bootstrap import bootstrap
from gateway.identity.issuers import Issuers
from gateway.identity.oauth import AccessTokens, TokenEndpoint
from gateway.identity.sign_in import SignIn
from gateway.limits import LimitsService
from gateway.live.feed import Feed
from gateway.live.ledgers import Ledgers
from gateway.live.subscription import Subscriptions
from gateway.outbound import Outbound
from gateway.proxy import GrpcDoor, Proxy
from gateway.readiness import Readiness
from gateway.transcode import Transcoder


class GatewayServing(Serving):
    """Both doors of one process."""

    def __init__(self, process: Process) -> None:
        platform, server = process.platform, process.server
        codec = Transcoder()
        ledgers = Ledgers(platform.channels, server)
        self._process = process
        self._feed = Feed(platform.settings.nats_url.get_secret_value(), ledgers)
        subscriptions = Subscriptions(self._feed, ledgers, platform.sealer, codec, platform.db)
        outbound = Outbound(platform.settings.trusted_hosts)
        tokens = AccessTokens(platform.signer, platform.verifier, platform.settings.public_url)
        authenticator = Authenticator(platform.db, SignIn(platform, Issuers(outbound)), tokens)
        self._reads = ReadLog(platform.db)
        proxy = Proxy(server, platform.channels, subscriptions, self._reads)
        readiness = Readiness(platform.db, proxy, self._feed)
        self._admission = Admission(platform.settings.concurrency_calls)
        batches, told = server.hosted[Batches.serves], server.hosted[LimitsService.serves]
        audit = server.hosted[AuditEntries.serves]
        assert isinstance(batches, Batches)
        assert isinstance(told, LimitsService)
        assert isinstance(audit, AuditEntries)
        audit.reads = self._reads
        oauth, limits, url = TokenEndpoint(authenticator.caller, tokens), told.limits, platform.settings.public_url
        batches.door = Door(limits, self._admission, codec, proxy)
        entrance = Entrance(authenticator, self._admission, self._reads)
        self._app = App(proxy, authenticator, entrance, codec, readiness, self._admission, limits, url, oauth)
        self._http = HttpDoor(self._app, self._admission)
        self._grpc = GrpcDoor(proxy, authenticator, entrance, server, self._admission, limits)

    async def start(self) -> GatewayServing:
        """Listens on both doors. Raises StartupError where an address is taken."""
        settings = self._process.settings
        if settings.bootstrap_api_key_file is not None:
            secret = await asyncio.to_thread(settings.bootstrap_api_key_file.read_text)
            await bootstrap(self._process.platform.db, secret.strip())
        self._process.tasks.append(asyncio.create_task(self._feed.run(), name="feed"))
        self._process.tasks.append(asyncio.create_task(self._reads.run(), name="reads"))
        await self._grpc.start(settings.listen)
        await self._http.start(settings)
        return self

    async def drain(self) -> None:
        """Readiness turns red and health says so; calls are still answered."""
        self._app.draining = self._admission.draining = True
        await self._grpc.drain()

    async def stop(self) -> None:
        """Tells streams to go elsewhere, with their replay ids, and waits for the calls under way."""
        self._feed.close()
        await asyncio.gather(self._http.stop(), self._grpc.stop())
        await self._reads.close()


async def serve(process: Process) -> Serving:
    """Starts both doors."""
    return await GatewayServing(process).start()
