"""The standard methods of a resource but writing batches (AIP-131 to 135, 164, 231), from its descriptors alone."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from crm.type.v1.common_pb2 import Outcome
from google.protobuf.message import Message
from sqlalchemy import bindparam, select

from chassis import context, contract, masks
from chassis.checks import clear_output_only
from chassis.errors import Failure, Invalid, Precondition, Reason, invalid
from chassis.listing import Listing, joined, named, statement_of
from chassis.query import page_of
from chassis.resource import Record, Resource
from chassis.revert import last_where, revert
from chassis.rows import moment, timestamp
from chassis.tokens import Sealer
from chassis.work import View, Work

Handler = Callable[[Any, Any], Awaitable[Message | bytes]]
MAX_BATCH: Final = 1_000


class Standard:
    """The standard methods of one resource, each as a handler ``(request, transaction) -> response``."""

    def __init__(self, resource: Resource[Any], service: str, sealer: Sealer, generated: Callable[[str], Any]) -> None:
        self.resource = resource
        self._sealer = sealer
        self._package = service.rpartition(".")[0]
        self._generated = generated
        self.field = re.sub(r"(?<!^)(?=[A-Z])", "_", resource.name).lower()
        self.create_hook: Callable[[Message, Message, Work], Awaitable[Message]] | None = None
        self.merge_hook: Callable[[Message, Record[Any], Work], Awaitable[Message]] | None = None

    def handler(self, method: str) -> Handler | None:
        """The handler of a method by its name, or None where it is no standard one."""
        name = self.resource.name
        plain: dict[str, Handler] = {
            f"Get{name}": self.get,
            f"Create{name}": self.create,
            f"Update{name}": self.update,
            f"Delete{name}": self.delete,
            f"Undelete{name}": self.undelete,
            f"List{name}Revisions": self.list_revisions,
            f"Revert{name}": functools.partial(revert, self.resource),
        }
        if method in plain:
            return plain[method]
        if method.startswith("BatchGet"):
            return self.batch_get
        return self.list if method.startswith("List") else None

    def _response(self, method: contract.Method | None) -> Any:
        assert method is not None
        return self._generated(method.descriptor.output_type.full_name)()

    def _resource_in(self, request: Any) -> Any:
        return getattr(request, self.field)

    async def get(self, request: Any, tx: View) -> bytes:
        """Reads one record, as it is or as it was."""
        wanted = masks.wanted(request.read_mask, self.resource.message.DESCRIPTOR)
        if request.HasField("as_of"):
            body = await self._as_of(request, tx)
        else:
            body = await tx.get_body(self.resource, request.id)
        return _masked(self.resource, body, wanted)

    async def _as_of(self, request: Any, tx: View) -> bytes:
        if self.resource.owners() is not None:
            await tx.get_body(self.resource, request.id)  # who may see a record today may see its past
        body = await last_where(tx, request.id, tx.schema.ledger.c.commit_time <= moment(request.as_of))
        if body is None:
            raise self.resource.missing(request.id)
        return body

    async def list(self, request: Any, tx: View) -> bytes:
        """Lists a page of records."""
        descriptor = self.resource.message.DESCRIPTOR
        owners = self.resource.owners()
        query = (tx.tenant, self.resource.kind.full_name, request.filter, request.order_by, request.show_deleted)
        page = page_of(self._sealer, request.page_size, request.page_token, query)
        wanted = masks.wanted(request.read_mask, descriptor)
        listing = Listing(
            self.resource, request.filter, request.order_by, request.show_deleted, page.size,
            None if page.after is None else tuple(each is None for each in page.after),
            None if owners is None else min(len(owners), 2),
        )  # fmt: skip
        statement, order = statement_of(listing, context.fields(descriptor))
        rows = await tx.rows_alone(statement, named(page.after, owners))
        response = self._response(tx.method)
        if len(rows) > page.size:
            response.next_page_token = page.next_token(order.values(rows[page.size - 1]))
        bodies = [row["record"] for row in rows[: page.size]]
        if wanted is not None:
            bodies = [_masked(self.resource, body, wanted) for body in bodies]
        # Messages end to end are one message with the fields of both (protobuf encoding, "Last One Wins").
        return joined(response.DESCRIPTOR.fields[0].number, bodies) + bytes(response.SerializeToString())

    @contextlib.contextmanager
    def _placed(self) -> Iterator[None]:
        """Says of what is wrong with a record's field where in the request that field stands."""
        try:
            yield
        except Failure as failure:
            failure.within(self.field, contract.descriptor_of(self.resource.message).fields_by_name)
            raise

    async def create(self, request: Any, tx: Work) -> Message:
        """Makes one record."""
        record = self._resource_in(request)
        clear_output_only(record)
        with self._placed():
            return await self._create(request, record, tx, claimed=False)

    async def _create(self, request: Any, record: Any, tx: Work, *, claimed: bool) -> Message:
        masks.check_writable(record)
        self._own(record)
        occur_time = request.occur_time if request.HasField("occur_time") else None
        made = await tx.create(self.resource, record, occur_time=occur_time, claimed=claimed)
        return await self.create_hook(request, made, tx) if self.create_hook is not None else made

    def _own(self, record: Any) -> None:
        """Gives a record without owner to a user that sees some owners' records alone: it would be out of its sight."""
        if self.resource.owned and not record.owner_id and self.resource.owners() is not None:
            access = context.current().caller.access
            record.owner_id = access.user_id if access is not None else ""

    async def update(self, request: Any, tx: Work) -> Message:
        """Changes fields of one record."""
        patch = self._resource_in(request)
        if not patch.id:
            raise required(f"{self.field}.id")
        record = await tx.lock(self.resource, patch.id, patch.etag)
        with self._placed():
            return await self._update(request, record, tx)

    async def _update(self, request: Any, record: Record[Any], tx: Work) -> Message:
        patch = self._resource_in(request)
        record.after.CopyFrom(record.before)  # an earlier item of the batch may have failed half-way
        clear_output_only(patch, frozenset({"id"}))
        paths = request.update_mask.paths
        if list(paths) == ["*"]:
            masks.check_readable(patch)
            readable = context.fields(contract.descriptor_of(patch)).readable
            paths = [
                each.name for each in patch.DESCRIPTOR.fields
                if each.name in readable and not contract.is_output_only(each) and each.name != "etag"
            ]  # fmt: skip
        masks.apply(record.after, patch, paths or masks.present(patch))
        return await tx.update(record, occur_time=request.occur_time if request.HasField("occur_time") else None)

    async def delete(self, request: Any, tx: Work) -> Message:
        """Deletes one record softly."""
        record = await tx.lock(self.resource, request.id, request.etag)
        return await self._delete(request, record, tx)

    async def _delete(self, request: Any, record: Record[Any], tx: Work) -> Message:
        record.after.delete_time.CopyFrom(timestamp(await tx.now()))
        return await tx.update(
            record, "deleted", occur_time=request.occur_time if request.HasField("occur_time") else None
        )

    async def undelete(self, request: Any, tx: Work) -> Message:
        """Takes back a deletion."""
        record = await tx.lock(self.resource, request.id, request.etag, deleted=True)
        if not record.before.HasField("delete_time"):
            raise Precondition(Reason.REASON_NOT_DELETED, f"{request.id} is not deleted")
        record.after.ClearField("delete_time")
        return await tx.update(
            record, "undeleted", occur_time=request.occur_time if request.HasField("occur_time") else None
        )

    async def list_revisions(self, request: Any, tx: View) -> Message:
        """Lists a record's history from the ledger, the last revision first."""
        await tx.get(self.resource, request.id)
        ledger = tx.schema.ledger
        query = (tx.tenant, "revisions", request.id)
        page = page_of(self._sealer, request.page_size, request.page_token, query)
        statement = select(ledger).where(
            ledger.c.tenant_id == bindparam("tenant"), ledger.c.entity_id == bindparam("entity_id")
        )
        if page.after is not None:
            statement = statement.where(ledger.c.revision < page.after[0])
        statement = statement.order_by(ledger.c.revision.desc()).limit(page.size + 1)
        rows = await tx.rows(statement, {"entity_id": request.id})
        response = self._response(tx.method)
        for row in rows[: page.size]:
            self._add_revision(response.revisions.add(), row)
        if len(rows) > page.size:
            response.next_page_token = page.next_token([rows[page.size - 1].revision])
        return response  # type: ignore[no-any-return]

    def _add_revision(self, entry: Any, row: Any) -> None:
        revision = entry.revision
        revision.revision = row.revision
        revision.type = row.type
        readable = context.fields(contract.descriptor_of(self.resource.message)).readable
        revision.changed.paths.extend(name for name in row.changed if name in readable)
        revision.actor = row.actor
        revision.occur_time.CopyFrom(timestamp(row.occur_time))
        revision.commit_time.CopyFrom(timestamp(row.commit_time))
        revision.trace_id = row.trace_context.split("-")[1] if row.trace_context else ""
        revision.event_id = str(row.event_id)
        revision.cause_event_id = str(row.cause_event_id or "")
        getattr(entry, self.field).ParseFromString(row.after)

    async def batch_get(self, request: Any, tx: View) -> bytes:
        """Reads many records, each with a result of its own."""
        check_size(len(request.ids), "ids")
        wanted = masks.wanted(request.read_mask, self.resource.message.DESCRIPTOR)
        found = await tx.get_bodies(self.resource, request.ids)
        field = self._response(tx.method).DESCRIPTOR.fields_by_name["results"]
        made = self._generated(field.message_type.full_name)
        read = made(outcome=Outcome.OUTCOME_READ).SerializeToString()
        number = field.message_type.fields_by_name[self.field].number
        results: list[bytes] = []
        for each in request.ids:
            if each in found:
                results.append(joined(number, [_masked(self.resource, found[each], wanted)]) + read)
            else:
                results.append(made(status=self.resource.missing(each).status()).SerializeToString())
        return joined(field.number, results)


def _only(record: Message, wanted: frozenset[str] | None) -> Message:
    if wanted is not None:
        for field, _ in record.ListFields():
            if field.name not in wanted:
                record.ClearField(field.name)
    return record


def _masked(resource: Resource[Any], body: bytes, wanted: frozenset[str] | None) -> bytes:
    """The record's bytes with the wanted fields alone; as they are kept where all are wanted."""
    return body if wanted is None else bytes(_only(resource.message.FromString(body), wanted).SerializeToString())


def check_size(count: int, field: str) -> None:
    if not 1 <= count <= MAX_BATCH:
        message = f"a batch has 1 to {MAX_BATCH} items, not {count}"
        raise invalid(field, message)


def required(path: str) -> Invalid:
    return invalid(path, "it is required", Reason.REASON_FIELD_REQUIRED)
