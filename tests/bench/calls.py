"""gRPC calls on a service as the gateway makes them, beside a bare echo of the same messages."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from crm.contacts.v1 import contact_pb2 as pb

from tests.bench.echo import Echo
from tests.bench.load import Load, frames, grpc_headers, h2load
from tests.bench.measure import Case
from tests.bench.stack import Stack
from tests.running import Client

SERVICE = "crm.contacts.v1.ContactService"
GET = "/crm.contacts.v1.ContactService/GetContact"
LIST = "/crm.contacts.v1.ContactService/ListContacts"
CREATE = "/crm.contacts.v1.ContactService/CreateContact"
# So many a second are not reached; a run that used up its bodies would end early.
_MOST_CREATES_A_SECOND = 6_000


@dataclass(frozen=True)
class Calls:
    """The calls of the goals on one tenant's contacts."""

    stack: Stack
    client: Client
    contacts: Sequence[str]

    def get(self) -> bytes:
        """A request for some contact."""
        return pb.GetContactRequest(id=random.choice(self.contacts)).SerializeToString()

    def page(self) -> bytes:
        """A request for fifty contacts of one source, by name."""
        request = pb.ListContactsRequest(page_size=50, filter='source = "event"', order_by="display_name")
        return request.SerializeToString()

    def create(self) -> bytes:
        """A request for a new contact, with a request id of its own."""
        number = uuid.uuid4()
        contact = pb.Contact(given_name="Ada", family_name=f"Lovelace {number.hex[:8]}", source="event")
        contact.emails.add(address=f"ada.{number.hex}@example.com")
        return pb.CreateContactRequest(contact=contact, request_id=str(number)).SerializeToString()

    def answer(self, path: str, request: bytes) -> bytes:
        """The reply to one call, made from here. Raises grpc.RpcError."""
        headers = grpc_headers(self.stack.token("contacts", self.client.tenant))
        with grpc.insecure_channel(self.stack.addresses("contacts")[0]) as channel:
            call: Any = channel.unary_unary(path)
            reply: bytes = call(request, metadata=(("authorization", headers["authorization"]),), timeout=10)
            return reply

    def replies(self) -> dict[str, bytes]:
        """A reply of each method, for the echo."""
        return {
            GET: self.answer(GET, self.get()),
            LIST: self.answer(LIST, self.page()),
            CREATE: self.answer(CREATE, self.create()),
        }


def cases(calls: Calls, floor: Echo) -> list[Case]:
    """Get, list and create, each after its floor."""
    stack = calls.stack
    ours = {"service": stack.pids("contacts"), "postgres": stack.pids("postgres"), "platform": stack.whole}
    echo = {"service": [floor.pid]}
    addresses = stack.addresses("contacts")

    def token() -> dict[str, str]:
        return grpc_headers(stack.token("contacts", calls.client.tenant))

    def fixed(path: str, where: Sequence[str], seconds: float) -> Load:
        request = calls.get() if path == GET else calls.page()
        # The echo answers with one and the same reply.
        reply = calls.answer(path, request) if where is addresses else floor.replies[path]
        return h2load(where, path, request, len(reply), token(), seconds)

    def created(where: str, seconds: float) -> Load:
        bodies = [calls.create() for _ in range(int(_MOST_CREATES_A_SECOND * seconds))]
        return frames([where], CREATE, bodies, token(), seconds)

    return [
        Case("echo get", lambda s: fixed(GET, [floor.address], s), echo),
        Case("get", lambda s: fixed(GET, addresses, s), ours),
        Case("echo list", lambda s: fixed(LIST, [floor.address], s), echo),
        Case("list", lambda s: fixed(LIST, addresses, s), ours),
        Case("echo create", lambda s: created(floor.address, s), echo),
        Case("create", lambda s: created(addresses[0], s), ours, settle=stack.whole),
    ]
