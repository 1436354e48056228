"""HTTP routes, read from the contract. Nobody writes one by hand, so no path exists that it does not show."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from google.protobuf import descriptor_pb2

from chassis.contract import INTERNAL, Contract, Method, load
from chassis.errors import Invalid, NotFound, Reason, Unimplemented

_VARIABLE = re.compile(r"\{([a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*)\}")
_VERB_SUFFIX = re.compile(r":([A-Za-z][A-Za-z0-9]*)$")
_SHOWABLE = re.compile(r"[A-Za-z_]{1,40}")


@dataclass(frozen=True, eq=False)
class Route:
    """One method as HTTP calls it.

    ``verb`` is GET, POST, PATCH, PUT or DELETE; ``path_fields`` are the request fields that the path fills,
    in its order, dotted where nested; ``body`` names the field that the JSON body fills, ``*`` for all, empty
    for none.
    """

    method: Method
    verb: str
    template: str
    path_fields: tuple[str, ...]
    body: str


@dataclass
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    variable: _Node | None = None
    # By custom verb (empty for none), then by HTTP method.
    routes: dict[str, dict[str, Route]] = field(default_factory=dict)


class Routes:
    """The routes of every public method. Raises ValueError for a contract whose paths clash."""

    def __init__(self, contract: Contract) -> None:
        self.all: list[Route] = []
        self._root = _Node()
        self._collections: set[str] = set()
        for method in contract.methods.values():
            if method.http is not None and not method.internal:
                self._add(method, method.http.verb.upper(), method.http.template, method.http.body)

    def _add(self, method: Method, verb: str, template: str, body: str) -> None:
        route = Route(method, verb, template, tuple(_VARIABLE.findall(template)), body)
        suffix = _VERB_SUFFIX.search(template)
        node = self._root
        for segment in template.removesuffix(suffix.group() if suffix else "").strip("/").split("/"):
            if _VARIABLE.fullmatch(segment):
                node.variable = node.variable or _Node()
                node = node.variable
            elif "{" in segment:
                raise ValueError(f"{method.path}: '{template}' has a path variable that is no whole segment")
            else:
                node = node.literals.setdefault(segment, _Node())
        by_verb = node.routes.setdefault(suffix.group(1) if suffix else "", {})
        if verb in by_verb:
            raise ValueError(f"{method.path} and {by_verb[verb].method.path} share {verb} {template}")
        by_verb[verb] = route
        self.all.append(route)
        self._collections.add(template.split("/")[2].partition(":")[0])

    def find(self, verb: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """The route of a call and what its path says, by field.

        ``raw_path`` is percent-encoded, as it came. Raises NotFound for an unknown path, Unimplemented for a
        path that has no such HTTP method (``allow`` in the metadata lists those it has).
        """
        segments = raw_path.removeprefix("/").split("/")
        suffix = _VERB_SUFFIX.search(segments[-1])
        if suffix:
            segments[-1] = segments[-1][: suffix.start()]
        found = _walk(self._root, segments, suffix.group(1) if suffix else "")
        if found is None:
            raise NotFound(Reason.REASON_METHOD_UNKNOWN, self._unknown(segments))
        by_verb, values = found
        route = by_verb.get(verb)
        if route is None:
            allowed = ", ".join(sorted(by_verb))
            raise Unimplemented(
                Reason.REASON_HTTP_METHOD_NOT_ALLOWED,
                f"this path takes {allowed}, not the HTTP method of this call",
                metadata={"allow": allowed},
            )
        names = route.path_fields
        return route, {name: _decode(name, value) for name, value in zip(names, values, strict=True)}

    def _unknown(self, segments: list[str]) -> str:
        name = segments[1] if len(segments) > 1 else ""
        near = difflib.get_close_matches(name, self._collections, 1) if _SHOWABLE.fullmatch(name) else []
        hint = f"; did you mean /v1/{near[0]}?" if near and near[0] != name else ""
        return f"there is no such path{hint or '; /openapi.json lists every one'}"


def _walk(node: _Node, segments: list[str], suffix: str) -> tuple[dict[str, Route], list[str]] | None:
    if not segments:
        by_verb = node.routes.get(suffix)
        return (by_verb, []) if by_verb else None
    head, *rest = segments
    if head in node.literals and (found := _walk(node.literals[head], rest, suffix)):
        return found
    if node.variable is not None and head and (found := _walk(node.variable, rest, suffix)):
        return found[0], [head, *found[1]]
    return None


def _decode(name: str, value: str) -> str:
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError as error:
        text = f"{name}: the path is not UTF-8 here"
        raise Invalid(Reason.REASON_FIELD_INVALID, text, violations=[(name, "is not UTF-8")]) from error


@lru_cache(maxsize=1)
def routes() -> Routes:
    """The routes of this installation's contract."""
    return Routes(load())


def published(contract: Contract) -> bytes:
    """The public part of the contract with all it imports, as a serialised ``google.protobuf.FileDescriptorSet``."""
    files = [each for each in contract.files.file if not f"{each.package}.".startswith(INTERNAL)]
    return descriptor_pb2.FileDescriptorSet(file=files).SerializeToString(deterministic=True)
