"""The guides of ``docs/``, as pages that the gateway serves without fetching anything from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

PREFIX = "/docs/guides/"
_FOLDER = Path(__file__).resolve().parent.parent / "docs"
# For integrators, in the order in which one reads them; each is known by the last part of its path.
NAMES = (
    "quickstarts/curl", "quickstarts/python-rest", "quickstarts/python-grpc", "quickstarts/typescript",
    "api", "authentication", "paging", "filter", "idempotency", "errors", "limits", "events", "webhooks", "import",
    "access", "security", "audit", "versioning", "agents",
)  # fmt: skip


@lru_cache(maxsize=1)
def files() -> dict[str, Path]:
    """The guides that are there, by name."""
    paths = (_FOLDER / f"{name}.md" for name in NAMES)
    return {path.stem: path for path in paths if path.is_file()}


@lru_cache(maxsize=1)
def titles() -> dict[str, str]:
    """Their first headings, by name."""
    return {name: path.read_text().partition("\n")[0].lstrip("# ") for name, path in files().items()}


@lru_cache(maxsize=len(NAMES) + 1)
def page(path: str) -> bytes | None:
    """The page at a path below ``/docs/guides``; None where there is none."""
    if path == PREFIX.rstrip("/"):
        links = "".join(f'<li><a href="{PREFIX}{name}">{escape(title)}</a></li>' for name, title in titles().items())
        return _framed("Guides", f"<h1>Guides</h1><ul>{links}</ul>")
    name = path.removeprefix(PREFIX)
    if not path.startswith(PREFIX) or name not in titles():
        return None
    return _framed(titles()[name], _markdown().render(files()[name].read_text()))


def _framed(title: str, content: str) -> bytes:
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} – Rapport</title>
<link rel="stylesheet" href="/docs.css">
</head>
<body>
<header><a href="/">Rapport</a> <a href="/docs">API</a> <a href="{PREFIX.rstrip("/")}">Guides</a></header>
<main class="guide">
{content}</main>
</body>
</html>
"""
    return text.encode()


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    # Without raw HTML: what stands in a guide is text, never markup of its own.
    made = MarkdownIt("commonmark", {"html": False}).enable("table")
    made.add_render_rule("link_open", _link)
    # The policy of pages allows no style attributes, by which the alignment of columns is told.
    made.add_render_rule("th_open", lambda *_: "<th>")
    made.add_render_rule("td_open", lambda *_: "<td>")
    return made


def _link(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:  # fmt: skip
    """A link to another guide leads to its page; one to a file that is not served stays a name."""
    token = tokens[index]
    target, mark, part = str(token.attrs.get("href", "")).partition("#")
    if target.endswith(".md"):
        name = target.removesuffix(".md").rpartition("/")[2]
        token.attrs["href"] = f"{PREFIX}{name}{mark}{part}" if name in titles() else PREFIX.rstrip("/")
    return renderer.renderToken(tokens, index, options, env)
