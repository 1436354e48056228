"""The guides are pages under a strict policy: nothing from elsewhere, no markup of their own, links that lead on."""

import re
from pathlib import Path

import pytest

from gateway import guides
from gateway.contract import routes
from gateway.openapi import path_of

ROOT = Path(__file__).resolve().parents[2]


def text_of(name: str) -> str:
    page = guides.page(f"/docs/guides/{name}")
    assert page is not None
    return page.decode()


def test_the_first_guides_are_there_and_listed() -> None:
    assert {"curl", "typescript", "authentication", "paging", "idempotency", "errors", "events", "limits"} <= set(
        guides.titles()
    )
    index = guides.page("/docs/guides")
    assert index is not None
    assert all(f'href="/docs/guides/{name}"' in index.decode() for name in guides.titles())


@pytest.mark.parametrize("name", guides.titles())
def test_a_guide_needs_nothing_that_the_policy_forbids(name: str) -> None:
    assert not re.search(r"<(?:script|img|iframe|style)\b|\s(?:style|on\w+)=", text_of(name))


@pytest.mark.parametrize("name", guides.titles())
def test_links_between_guides_lead_to_guides(name: str) -> None:
    targets = re.findall(r'href="(?!https?://)([^"#]+)', text_of(name))
    for target in targets:
        assert target in ("/", "/docs", "/docs.css") or guides.page(target) is not None


@pytest.mark.parametrize("path", ["/docs/guides/", "/docs/guides/nothing", "/docs/guides/../README"])
def test_what_is_no_guide_is_not_there(path: str) -> None:
    assert guides.page(path) is None


@pytest.mark.parametrize("name", ["authentication", "paging", "idempotency", "errors"])
def test_the_paths_that_curl_calls_exist(name: str) -> None:
    paths = {path_of(each) for each in routes().all}
    called = re.findall(r"\$RAPPORT_URL(/v1/\w+)", (ROOT / "docs" / f"{name}.md").read_text())
    assert called
    assert set(called) <= paths
