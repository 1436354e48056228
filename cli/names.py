"""Records by what they are called, since a table shows who and not which id."""

from __future__ import annotations

from collections.abc import Iterable

from cli.client import Client, Json
from cli.problems import Refused
from cli.resources import BY_PREFIX

OWNERS = ("owner_id", "user_id")
_IN_A_CALL = 50


class Names:
    """Display names by id, read from the platform when they are asked for."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._names: dict[str, str] = {}

    def read(self, ids: Iterable[str]) -> None:
        """Reads the names of these records. One the caller may not see keeps its id."""
        wanted: dict[str, set[str]] = {}
        for record_id in ids:
            prefix = record_id.rpartition("_")[0]
            if prefix in BY_PREFIX and record_id not in self._names:
                wanted.setdefault(BY_PREFIX[prefix].plural, set()).add(record_id)
        for plural, unknown in wanted.items():
            try:
                self._read_of(plural, sorted(unknown))
            except Refused as refused:
                if refused.http_status not in (403, 404, 405):
                    raise

    def of(self, record_id: str) -> str:
        """What a record is called; its id where that is not known."""
        return self._names.get(record_id, record_id)

    def in_place_of_owners(self, records: list[Json]) -> list[Json]:
        """The records with names where they hold their owners' ids."""
        self.read(str(record[key]) for record in records for key in OWNERS if record.get(key))
        return [{k: self.of(v) if k in OWNERS else v for k, v in record.items()} for record in records]

    def _read_of(self, plural: str, ids: list[str]) -> None:
        if plural == "api_keys":  # few, and read only as a list
            self._keep(self._client.get("/v1/api_keys", {"page_size": 1000}).get("api_keys", []))
            return
        for start in range(0, len(ids), _IN_A_CALL):
            answer = self._client.get(f"/v1/{plural}:batchGet", {"ids": ids[start : start + _IN_A_CALL]})
            results = answer.get("results", [])
            self._keep(record for result in results for record in result.values() if is_record(record))

    def _keep(self, records: Iterable[Json]) -> None:
        for record in records:
            self._names[record["id"]] = record.get("display_name") or record.get("title") or record["id"]


def is_record(value: object) -> bool:
    """Whether a part of a result is the record it is about."""
    return isinstance(value, dict) and "id" in value
