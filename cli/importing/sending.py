"""Rows on the wire: batches by natural key, and conversions one by one; each row gets its own outcome."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from cli.client import Client, Interrupted, Json
from cli.importing.reading import Row
from cli.importing.tally import Tally
from cli.problems import Refused
from cli.resources import Resource

CONVERSIONS_AT_ONCE = 8
_ITEM = re.compile(r"requests\[(\d+)\]")
# The call was refused for what is in it, so a part of it may be accepted.
_REFUSED_FOR_CONTENT = frozenset({400, 404, 409, 413})
# google.rpc.Code: the item may be accepted in a moment.
_PASSING_CODES = frozenset({4, 8, 14})


@dataclass(frozen=True, slots=True)
class Item:
    """A row as it is sent: one request of a batch, or the body of a call of its own."""

    row: Row
    body: Json
    lead: Json | None = None
    company_id: str = ""
    role: str = ""


@dataclass
class Sender:
    """Sends items and counts what became of them. A dry run has everything checked and nothing written."""

    client: Client
    resource: Resource
    tally: Tally
    dry_run: bool
    _to_link: list[Json] = field(default_factory=list)

    def upsert(self, items: Sequence[Item]) -> None:
        """Makes or changes a record an item. One bad item fails alone, however the platform says so."""
        if not items:
            return
        # One request id for all tries: a try whose answer got lost is answered again, not done again.
        body: Json = {"requests": [item.body for item in items]}
        body |= {"validate_only": True} if self.dry_run else {"request_id": str(uuid.uuid4())}
        try:
            results = self.client.post(f"{self.resource.path}:batchUpsert", body)["results"]
        except Refused as refused:
            if refused.http_status not in _REFUSED_FOR_CONTENT:
                raise
            self._upsert_in_parts(items, refused)
            return
        if again := self._count(items, results, may_repeat=True):
            self._upsert_again(again)

    def link(self) -> None:
        """Links the people that were sent to the companies their rows name. A link that is there stays as it is."""
        if not self._to_link or self.dry_run:
            return
        requests = [{"affiliation": link} for link in self._to_link]
        self._to_link.clear()
        body: Json = {"requests": requests, "request_id": str(uuid.uuid4())}
        for result in self.client.post("/v1/affiliations:batchUpsert", body)["results"]:
            if status := result.get("status"):
                self.tally.remark(f"contacts whose company is not linked: {status_text(status)}")

    def _count(self, items: Sequence[Item], results: Sequence[Json], *, may_repeat: bool) -> list[Item]:
        """Counts what became of the items; gives back those that met a part that was away."""
        again = []
        for item, result in zip(items, results, strict=True):
            status = result.get("status") or {}
            if not status.get("code"):
                self.tally.done(result.get("outcome", ""))
                if item.company_id:
                    link = {"contact_id": result["contact"]["id"], "company_id": item.company_id}
                    self._to_link.append({**link, **({"role": item.role} if item.role else {})})
            elif may_repeat and is_passing(status):
                again.append(item)
            else:
                self.tally.fail(item.row, status_text(status))
        return again

    def convert(self, items: Sequence[Item]) -> None:
        """Converts each item's lead, several at a time. One converted by the same call before is unchanged."""
        with ThreadPoolExecutor(CONVERSIONS_AT_ONCE, thread_name_prefix="convert") as pool:
            try:
                calls = [(item, pool.submit(self._convert, item)) for item in items]
                for item, call in calls:
                    self._count_conversion(item, call.result)
            except BaseException:
                # What is on its way is waited for; what has not begun is left to the next run.
                self.client.stopping.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _convert(self, item: Item) -> Json:
        assert item.lead is not None
        body = {**item.body, "validate_only": True} if self.dry_run else item.body
        return self.client.post(f"/v1/leads/{item.lead['id']}:convert", body)

    def _count_conversion(self, item: Item, result: Callable[[], Json]) -> None:
        try:
            result()
        except Refused as refused:
            if refused.http_status not in _REFUSED_FOR_CONTENT:
                raise
            self.tally.fail(item.row, str(refused))
            return
        converted = item.lead is not None and item.lead.get("status") == "LEAD_STATUS_CONVERTED"
        self.tally.done("OUTCOME_UNCHANGED" if converted else "OUTCOME_CREATED")

    def _upsert_in_parts(self, items: Sequence[Item], refused: Refused) -> None:
        """Fails the items a refusal names and sends the others; halves the batch where it names none."""
        if len(items) == 1:
            self.tally.fail(items[0].row, without_item(str(refused)))
            return
        named: dict[int, list[str]] = {}
        for name, text in refused.violations:
            if (match := _ITEM.search(name)) and int(match[1]) < len(items):
                named.setdefault(int(match[1]), []).append(f"{name.partition('].')[2]}: {text}")
        if named:
            for index, texts in named.items():
                self.tally.fail(items[index].row, "; ".join(texts))
            self.upsert([item for index, item in enumerate(items) if index not in named])
            return
        middle = len(items) // 2
        self.upsert(items[:middle])
        self.upsert(items[middle:])

    def _upsert_again(self, items: Sequence[Item]) -> None:
        """Sends what met a part that was away, until it gets through or patience ends."""
        deadline, delay = time.monotonic() + self.client.patience_s, 0.5
        while True:
            if self.client.stopping.wait(delay):
                raise Interrupted("interrupted")
            delay = min(delay * 2, 5.0)
            body = {"requests": [item.body for item in items], "request_id": str(uuid.uuid4())}
            results = self.client.post(f"{self.resource.path}:batchUpsert", body)["results"]
            items = self._count(items, results, may_repeat=time.monotonic() < deadline)
            if not items:
                return


def is_passing(status: Json) -> bool:
    """Whether an item's failure may be gone in a moment."""
    return status.get("code") in _PASSING_CODES or reason(status) == "CONFLICT"


def reason(status: Json) -> str:
    """The reason in a status, from its ErrorInfo."""
    return next((str(d["reason"]) for d in status.get("details", []) if "reason" in d), "")


def status_text(status: Json) -> str:
    """What a status says, with the fields it names."""
    message = str(status.get("message") or f"refused with code {status.get('code')}")
    extra = [
        f"{violation.get('field')}: {text}"
        for detail in status.get("details", [])
        for violation in detail.get("field_violations", [])
        if (text := str(violation.get("description"))) not in message
    ]
    return without_item("; ".join([message, *extra]))


def without_item(text: str) -> str:
    """A message without the place in the batch, which says nothing to the reader of a file."""
    return re.sub(r"requests\[\d+\](\.|: )", "", text)
