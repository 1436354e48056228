"""An agent with the official client of the Model Context Protocol sees what its key may read, and writes nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from chassis.contract import load
from tests.running import Client, Running


@pytest.fixture(scope="module")
def client(platform: Running) -> Client:
    return platform.tenant("Agents")


def agent(client: Client, key: str, *calls: tuple[str, dict[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    """The tools that a key sees, by name, and what its calls answered."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def run() -> tuple[dict[str, Any], list[Any]]:
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=30) as http,
            streamable_http_client(f"{client.url}/mcp", http_client=http) as streams,
            ClientSession(streams[0], streams[1]) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            return tools, [await session.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(run())


def test_an_agent_finds_and_reads_what_is_there(client: Client) -> None:
    made = client.post("/v1/contacts", {"given_name": "Ana", "family_name": "Silva"})
    tools, (one, page, none) = agent(
        client, client.key,
        ("get_contact", {"id": made["id"]}),
        ("list_contacts", {"filter": 'family_name = "Silva"', "page_size": 5}),
        ("get_contact", {"id": "contact_nobody"}),
    )  # fmt: skip
    assert one.structured_content == made
    assert [each["id"] for each in page.structured_content["contacts"]] == [made["id"]]
    assert none.is_error
    assert json.loads(none.content[0].text)["error"]["details"][0]["reason"] == "ID_INVALID"
    assert "search" in tools
    assert all(tool.description and tool.annotations.read_only_hint for tool in tools.values())


def test_the_official_client_is_understood_with_and_without_a_handshake(client: Client) -> None:
    from mcp import Client as AgentClient
    from mcp.client.streamable_http import streamable_http_client

    async def run(mode: str) -> tuple[str, list[str], Any]:
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {client.key}"}, timeout=30) as http,
            AgentClient(streamable_http_client(f"{client.url}/mcp", http_client=http), mode=mode) as session,
        ):
            names = [tool.name for tool in (await session.list_tools()).tools]
            page = await session.call_tool("list_contacts", {"page_size": 1})
            return session.protocol_version, names, page.structured_content

    # "auto" asks for what the server speaks, and takes the newest that both do.
    of_2025, of_2026 = asyncio.run(run("legacy")), asyncio.run(run("auto"))
    assert (of_2025[0], of_2026[0]) == ("2025-11-25", "2026-07-28")
    assert of_2025[1:] == of_2026[1:]


def test_a_request_without_handshake_says_what_its_headers_say(client: Client) -> None:
    said = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "list_contacts"}

    def ask(headers: dict[str, str], meta: dict[str, Any], name: str = "list_contacts") -> tuple[int, Any]:
        params = {"name": name, "arguments": {}, "_meta": meta}
        call = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params}
        answer = client.http.post("/mcp", json=call, headers=headers)
        body = answer.json()
        assert body["id"] == 9
        return answer.status_code, body.get("error", {}).get("code", body.get("result", {}).get("resultType"))

    assert ask(headers, said) == (200, "complete")
    for header in headers:
        assert ask(headers | {header: "2025-11-25"}, said) == (400, -32020), header
        assert ask({name: text for name, text in headers.items() if name != header}, said) == (400, -32020), header
    assert ask(headers | {"mcp-name": "eat"}, said, "eat") == (400, -32602)
    assert ask(headers | {"mcp-protocol-version": "2027-01-01"}, {}) == (400, -32022)
    for key in said:
        assert ask(headers, {name: value for name, value in said.items() if name != key})[0] == 400, key
    gone = {"jsonrpc": "2.0", "id": 10, "method": "ping", "params": {"_meta": said}}
    answer = client.http.post("/mcp", json=gone, headers=headers | {"mcp-method": "ping"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)
    twice = [*headers.items(), ("mcp-method", "tools/list")]
    assert client.http.post("/mcp", json=gone, headers=twice).status_code == 400


def test_no_tool_writes_and_none_is_beyond_the_key(client: Client) -> None:
    tools, _ = agent(client, client.key)
    names = {method.name.lower() for method in load().methods.values() if method.writes}
    assert not {name.replace("_", "") for name in tools} & (names | {"batch"})
    # Reading by POST is reading too.
    assert "verify_audit" in tools
    narrow = client.post("/v1/api_keys", {"display_name": "agent", "scopes": ["deals.read"]})["secret"]
    tools, (refused,) = agent(client, narrow, ("list_deals", {}))
    assert refused.structured_content is not None
    assert {"list_deals", "get_deal"} <= tools.keys()
    assert "list_contacts" not in tools


def test_what_is_no_message_of_an_agent_is_refused_clearly(client: Client) -> None:
    ask = client.http
    assert ask.get("/mcp").status_code == 405
    assert ask.post("/mcp", content=b"[1, 2").status_code == 400
    assert httpx2.post(f"{client.url}/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}).status_code == 401
    assert ask.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}).status_code == 202
    page = {"jsonrpc": "2.0", "id": 6, "method": "ping"}
    assert ask.post("/mcp", json=page, headers={"origin": "http://rebound.example:8080"}).status_code == 403
    assert ask.post("/mcp", json=page, headers={"origin": "http://localhost:3000"}).status_code == 200
    never = ask.post("/mcp", json=page, headers={"mcp-protocol-version": "1999-12-31"})
    assert (never.status_code, never.json()["error"]["code"]) == (400, -32022)
    assert never.json()["error"]["data"]["supported"][0] == "2026-07-28"
    assert ask.post("/mcp", json=page, headers={"mcp-protocol-version": "2025-11-25"}).status_code == 200
    unknown = ask.post("/mcp", json={"jsonrpc": "2.0", "id": 7, "method": "tools/eat"}).json()
    assert (unknown["id"], unknown["error"]["code"]) == (7, -32601)
    beyond = {"jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": {"name": "delete_contact"}}
    assert ask.post("/mcp", json=beyond).json()["error"]["code"] == -32602
