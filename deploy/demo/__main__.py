"""``make demo``: loads the year into the platform that runs here. Safe to run again: nothing is made twice."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import os
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx2

from deploy.demo.people import Firm
from deploy.demo.year import CAMPAIGNS, PRODUCTS, SELLERS, LeadStory, begin, stories

SYSTEM = "demo"
CURRENCY = "EUR"
BATCH = 200
# A fixed room for request ids, so that a call that is repeated is known again.
_ROOM = uuid.UUID("5d1f3a52-7a0b-5e0c-8f7e-0d5b4c1e9a11")

Json = dict[str, Any]


class Api:
    """The gateway, as a client with the demo tenant's key sees it."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def get(self, path: str, **query: Any) -> Json:
        """The answer to a GET."""
        return self._answer(self._http.get(path, params=query))

    def post(self, path: str, body: Json, *, unless: tuple[str, ...] = ()) -> Json:
        """The answer to a POST; empty where it failed for one of the reasons in ``unless``."""
        answer = self._http.post(path, json=body)
        if answer.is_error and any(f'"{reason}"' in answer.text for reason in unless):
            return {}
        return self._answer(answer)

    def upsert(self, plural: str, field: str, items: list[Json]) -> dict[str, str]:
        """Makes or finds records by their external ids; the answer gives each one's id by its key."""
        found = {}
        for at in range(0, len(items), BATCH):
            part = items[at : at + BATCH]
            answer = self.post(f"/v1/{plural}:batchUpsert", {"requests": part})
            for item, result in zip(part, answer["results"], strict=True):
                if field not in result:
                    sys.exit(f"{plural}: {result['status']['message']}")
                found[item[field]["external_ids"][0]["id"]] = result[field]["id"]
        print(f"  {len(found):>5} {plural.replace('_', ' ')}", flush=True)
        return found

    @staticmethod
    def _answer(answer: httpx2.Response) -> Json:
        if answer.is_error:
            sys.exit(f"{answer.request.method} {answer.request.url.path}: {answer.text}")
        found: Json = answer.json()
        return found


def main() -> None:
    """Loads everything, in the order in which one thing needs another."""
    api = Api(*_address())
    now = dt.datetime.now(dt.UTC)
    start = begin(now.date())
    companies, told = stories(start, now)
    print(f"An invented company's year, from {start:%B %Y}:")
    users = api.upsert("users", "user", [_named("user", name) for name in SELLERS])
    products = api.upsert("products", "product", [_product(sku) for sku in PRODUCTS])
    campaigns = api.upsert("campaigns", "campaign", [_campaign(name, start) for name in CAMPAIGNS])
    by_source = {CAMPAIGNS[name][0]: campaign for name, campaign in campaigns.items()}
    firms = api.upsert("companies", "company", [_company(firm) for firm in companies])
    leads = api.upsert("leads", "lead", [_lead(story, users, by_source) for story in told])
    api.upsert("touches", "touch", list(_touches(told, leads, by_source)))
    customers = _convert(api, told, leads, products)
    _work(api, told, leads, customers, firms, users, now)
    print("Look at it: bin/rapport funnel --by source; bin/rapport pipeline; bin/rapport list deals")


def _address() -> tuple[str, str]:
    file = Path(os.environ.get("RAPPORT_STATE_DIR", ".local")) / "env"
    env = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line) if file.exists() else {}
    env |= os.environ
    if "RAPPORT_URL" not in env or "RAPPORT_API_KEY" not in env:
        sys.exit("no platform runs here: start one with `make up DETACH=1`")
    return env["RAPPORT_URL"], env["RAPPORT_API_KEY"]


def _key(text: str) -> list[Json]:
    return [{"system": SYSTEM, "id": text}]


def _time(moment: dt.datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _money(units: int) -> Json:
    return {"currency_code": CURRENCY, "units": str(units)}


def _named(field: str, name: str) -> Json:
    address = f"{name.lower().replace(' ', '.')}@rapport-demo.example"
    return {field: {"display_name": name, "email": address, "external_ids": _key(name)}}


def _product(sku: str) -> Json:
    name, price, family = PRODUCTS[sku]
    record = {
        "display_name": name,
        "sku": sku,
        "unit_price": _money(price),
        "family": family,
        "external_ids": _key(sku),
    }
    return {"product": record}


def _campaign(name: str, start: dt.datetime) -> Json:
    record = {"display_name": name, "kind": CAMPAIGNS[name][1], "status": "CAMPAIGN_STATUS_ACTIVE"}
    return {"campaign": {**record, "start_time": _time(start), "budget": _money(12_000), "external_ids": _key(name)}}


def _company(firm: Firm) -> Json:
    record = {"display_name": firm.name, "domain": firm.domain, "industry": firm.industry}
    return {"company": {**record, "external_ids": _key(firm.domain)}}


def _lead(story: LeadStory, users: dict[str, str], campaigns: dict[str, str]) -> Json:
    record = {
        "given_name": story.person.given_name,
        "family_name": story.person.family_name,
        "email": story.person.email,
        "company_name": story.firm.name,
        "company_domain": story.firm.domain,
        "source": story.source,
        "landing_page": story.page,
        "owner_id": users[story.seller],
        "external_ids": _key(story.key),
    }
    if story.source in campaigns:
        record["campaign_id"] = campaigns[story.source]
    return {"lead": record, "occur_time": _time(story.began)}


def _touches(told: list[LeadStory], leads: dict[str, str], campaigns: dict[str, str]) -> Iterable[Json]:
    for story in told:
        for number, moment in enumerate(story.touches):
            record = {"subject_id": leads[story.key], "channel": story.source, "landing_page": story.page}
            if story.source in campaigns:
                record["campaign_id"] = campaigns[story.source]
            yield {
                "touch": {**record, "external_ids": _key(f"{story.key}-{number}")},
                "occur_time": _time(moment),
            }


def _convert(
    api: Api, told: list[LeadStory], leads: dict[str, str], products: dict[str, str]
) -> dict[str, Json]:  # fmt: skip
    """Converts who was converted, and disqualifies who was not worth it. Gives the conversions by lead."""

    def one(story: LeadStory) -> tuple[str, Json]:
        path = f"/v1/leads/{leads[story.key]}"
        if story.fate == "disqualified":
            refusal = {"occur_time": _time(story.converted), "reason": "no budget", "request_id": _request(story, "no")}
            return story.key, api.post(f"{path}:disqualify", refusal, unless=("STATE_INVALID",))
        body: Json = {"occur_time": _time(story.converted), "deal": _deal(story, products)}
        if story.fate in ("won", "lost"):
            end: Json = {"won": {}} if story.fate == "won" else {"lost": {"loss_reason": "price"}}
            body["close"] = {**end, "occur_time": _time(story.ended)}
        body["request_id"] = _request(story, "convert")
        return story.key, api.post(f"{path}:convert", body, unless=("STATE_INVALID", "CONVERSION_CONFLICT"))

    wanted = [story for story in told if story.fate != "open"]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        done = dict(pool.map(one, wanted))
    conversions = {key: answer for key, answer in done.items() if "contact_id" in answer}
    print(f"  {len(conversions):>5} conversions, {len(wanted) - len(conversions)} leads disqualified")
    return conversions


def _deal(story: LeadStory, products: dict[str, str]) -> Json:
    _, price, _ = PRODUCTS[story.sku]
    line = {"product_id": products[story.sku], "quantity": {"value": str(story.units)}, "unit_price": _money(price)}
    return {
        "display_name": f"{story.firm.name}: {story.units} seats",
        "amount": _money(story.units * price * 12),
        "line_items": [line],
        "external_ids": _key(f"deal-{story.key}"),
    }


def _request(story: LeadStory, step: str) -> str:
    return str(uuid.uuid5(_ROOM, f"{story.key}/{step}/{story.began}"))


def _work(
    api: Api, told: list[LeadStory], leads: dict[str, str], conversions: dict[str, Json], firms: dict[str, str],
    users: dict[str, str], now: dt.datetime,
) -> None:  # fmt: skip
    """What the sellers did: calls and notes on leads, meetings on deals, tasks that are still to be done."""
    calls, notes, meetings, tasks = [], [], [], []
    for index, story in enumerate(told):
        owner = {"owner_id": users[story.seller]}
        about = [leads[story.key]]
        if index % 2 == 0:
            record: Json = {
                "title": "First call",
                "direction": "CALL_DIRECTION_OUTBOUND",
                "duration": f"{120 + index}s",
            }
            record |= {"outcome": "CALL_OUTCOME_CONNECTED" if index % 6 else "CALL_OUTCOME_NO_ANSWER"}
            record |= {"related_ids": about, "external_ids": _key(f"call-{story.key}"), **owner}
            calls.append({"call": record, "occur_time": _time(min(now, story.began + dt.timedelta(hours=5)))})
        if story.key not in conversions:
            continue
        about = [conversions[story.key]["contact_id"], firms[story.firm.domain]]
        if "deal" in conversions[story.key]:
            about.append(conversions[story.key]["deal"]["id"])
        note: Json = {
            "body": f"{story.firm.name} wants {story.units} seats and decides with finance.",
            "related_ids": about,
        }
        notes.append(
            {"note": note | {"external_ids": _key(f"note-{story.key}"), **owner}, "occur_time": _time(story.converted)}
        )
        meeting: Json = {"title": "Demonstration", "start_time": _time(story.converted + dt.timedelta(hours=4))}
        meeting |= {"end_time": _time(story.converted + dt.timedelta(hours=5)), "related_ids": about}
        meeting |= {"external_ids": _key(f"meeting-{story.key}"), **owner}
        meetings.append({"meeting": meeting, "occur_time": _time(story.converted)})
        if story.fate == "deal":
            task: Json = {"title": f"Follow up with {story.person.given_name}", "related_ids": about, **owner}
            tasks.append({"task": task | {"due_time": _due(now, index), "external_ids": _key(f"task-{story.key}")}})
            _move(api, story, conversions[story.key]["deal"])
    made: tuple[tuple[str, str, list[Json]], ...] = (
        ("calls", "call", calls), ("notes", "note", notes), ("meetings", "meeting", meetings), ("tasks", "task", tasks)
    )  # fmt: skip
    for plural, field, items in made:
        api.upsert(plural, field, items)


def _due(now: dt.datetime, index: int) -> str:
    return _time((now + dt.timedelta(days=index % 14 - 3)).replace(microsecond=0))


def _move(api: Api, story: LeadStory, deal: Json) -> None:
    """Takes an open deal as far as its story says."""
    stages = [each["id"] for each in api.get(f"/v1/pipelines/{deal['pipeline_id']}")["stages"]]
    here = stages.index(deal["stage_id"])
    now = dt.datetime.now(dt.UTC)
    for step in range(here + 1, min(story.stages, 3) + 1):
        moment = min(now, story.converted + dt.timedelta(days=2 * step))
        body = {"stage_id": stages[step], "occur_time": _time(moment), "request_id": _request(story, f"move-{step}")}
        api.post(f"/v1/deals/{deal['id']}:move", body, unless=("STATE_INVALID", "STAGE_INVALID", "TIME_INVALID"))


if __name__ == "__main__":
    main()
