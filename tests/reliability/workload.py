"""What the load of the reliability lines consists of: reads and writes of every service, over REST and gRPC."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from chassis import contract
from tests.reliability.driver import Kind
from tests.running import Client

# Every Create… message of the contract keeps its request id here.
_REQUEST_ID = 2


def everyday(client: Client, *, name: str = "", weight: float = 1.0) -> list[Kind]:
    """Four reads for each write, over every service; three calls of ten go over gRPC."""
    company = client.post("/v1/companies", {"display_name": "Under load"})["id"]
    lead = client.post("/v1/leads", {"display_name": "Asks", "given_name": "Ada", "email": "ada@load.example"})["id"]
    note = {"body": "Called again", "related_ids": [company]}

    def get(what: str, path: str, share: float) -> Kind:
        return Kind(f"{name}{what}", path, client.key, share * weight)

    def call(what: str, path: str, request: dict[str, Any], share: float, id_field: int = 0) -> Kind:
        message = json_format.ParseDict(request, contract.load().methods[path].request())
        body = message.SerializeToString().hex()
        return Kind(f"{name}{what}", path, client.key, share * weight, body=body, grpc=True, id_field=id_field)

    return [
        get("company", f"/v1/companies/{company}", 0.25),
        get("leads", "/v1/leads?page_size=5", 0.1),
        get("timeline", f"/v1/timeline/{company}?page_size=5", 0.1),
        get("campaigns", "/v1/campaigns?page_size=5", 0.1),
        Kind(f"{name}make", "/v1/companies", client.key, 0.1 * weight, "POST", '{"display_name":"Made under load"}'),
        Kind(f"{name}ask", "/v1/campaigns", client.key, 0.05 * weight, "POST", '{"display_name":"Made under load"}'),
        call("lead", "/crm.sales.v1.LeadService/GetLead", {"id": lead}, 0.15),
        call("company.rpc", "/crm.contacts.v1.CompanyService/GetCompany", {"id": company}, 0.1),
        call("note", "/crm.activities.v1.NoteService/CreateNote", {"note": note}, 0.05, _REQUEST_ID),
    ]


def expensive(client: Client) -> list[Kind]:
    """Pages of a thousand records, and searches for a part of a name, among two thousand companies."""
    for batch in range(20):
        names = [{"company": {"display_name": f"Company {batch * 100 + n} of many"}} for n in range(100)]
        client.post("/v1/companies:batchCreate", {"requests": names})
    return [
        Kind("page", "/v1/companies?page_size=1000", client.key, 0.5),
        Kind("search", "/v1/companies?page_size=100&filter=display_name:%229%20of%22", client.key, 0.5),
    ]
