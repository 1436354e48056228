"""The contract, read once from the descriptor set: methods, resources, events, and the facts of every field.

Everything that is derived, from routes to SQL, is derived from here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

from buf.validate import validate_pb2
from crm.type.v1 import options_pb2
from google.api import annotations_pb2, field_behavior_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

_PACKAGE = "crm."
# Packages that begin so are between our processes alone.
INTERNAL = "crm.internal."
_DEFAULT_PATH = Path(__file__).resolve().parent.parent / "gen" / "contract.binpb"


@dataclass(frozen=True)
class Http:
    """A method's HTTP mapping: verb such as ``get``, path template, and which field the body fills."""

    verb: str
    template: str
    body: str


@dataclass(frozen=True)
class Method:
    """One RPC. ``path`` is what gRPC calls it by; ``home`` is the kind of process that serves it."""

    path: str
    descriptor: MethodDescriptor
    service: str
    name: str
    home: str
    permission: str
    emits: tuple[str, ...]
    # Whether a call may do more than read. The restraint of agents, the audit, places and repetitions all go by this.
    writes: bool
    http: Http | None
    streams: bool
    internal: bool
    request: type[Message]
    response: type[Message]


@dataclass(frozen=True)
class ResourceType:
    """A kind of record. ``occur_field`` keeps when one began, or is empty."""

    prefix: str
    plural: str
    occur_field: str
    descriptor: Descriptor
    home: str
    message: type[Message]

    @property
    def full_name(self) -> str:
        """The message's full name, for example ``crm.sales.v1.Deal``."""
        return str(self.descriptor.full_name)


class Contract:
    """The whole contract, from a serialised FileDescriptorSet with imports and source info."""

    def __init__(self, image: bytes) -> None:
        self._image = image
        self.pool = descriptor_pool.DescriptorPool()
        files = self.files
        for file in files.file:
            self.pool.Add(file)
        self._classes: dict[str, type[Message]] = {}
        self.services: dict[str, ServiceDescriptor] = {}
        self.methods: dict[str, Method] = {}
        self.resources: dict[str, ResourceType] = {}
        for file in files.file:
            if file.package.startswith(_PACKAGE):
                self._read_file(file)
        self.by_message = {each.full_name: each for each in self.resources.values()}

    @property
    def files(self) -> descriptor_pb2.FileDescriptorSet:
        """The files with their comments, read anew: they take megabytes that a process seldom needs."""
        return descriptor_pb2.FileDescriptorSet.FromString(self._image)

    def _read_file(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        for service in file.service:
            found = self.pool.FindServiceByName(f"{file.package}.{service.name}")
            self.services[found.full_name] = found
            for each in found.methods:
                method = self._method(found, each)
                self.methods[method.path] = method
        for message in file.message_type:
            descriptor = self.pool.FindMessageTypeByName(f"{file.package}.{message.name}")
            options = descriptor.GetOptions().Extensions[options_pb2.resource]
            if options.type_prefix:
                self.resources[options.type_prefix] = ResourceType(
                    prefix=options.type_prefix,
                    plural=options.plural,
                    occur_field=options.occur_field,
                    descriptor=descriptor,
                    home=_home(file.package),
                    message=self.message(descriptor.full_name),
                )

    def _method(self, service: ServiceDescriptor, method: MethodDescriptor) -> Method:
        options = method.GetOptions()
        emits = tuple(options.Extensions[options_pb2.emits])
        package = service.file.package
        return Method(
            path=f"/{service.full_name}/{method.name}",
            descriptor=method,
            service=service.full_name,
            name=method.name,
            home=_home(package),
            permission=options.Extensions[options_pb2.permission],
            emits=emits,
            writes=bool(emits) or bool(options.Extensions[options_pb2.writes]),
            http=_http(method),
            streams=bool(method.server_streaming),
            internal=f"{package}.".startswith(INTERNAL),
            request=self.message(method.input_type.full_name),
            response=self.message(method.output_type.full_name),
        )

    def message(self, full_name: str) -> type[Message]:
        """The class of a message. Raises KeyError where the contract has none of that name."""
        found = self._classes.get(full_name)
        if found is None:
            found = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(full_name))
            self._classes[full_name] = found
        return found

    def read_permission(self, kind: ResourceType) -> str:
        """The permission to read records of a kind: that of its Get method, or of a wildcard where it has none."""
        path = f"/{kind.full_name}Service/Get{kind.descriptor.name}"
        return self.methods[path].permission if path in self.methods else f"{kind.plural}.read"

    def methods_of(self, service: str) -> list[Method]:
        """The methods of a service, in the order the contract declares them."""
        return [each for each in self.methods.values() if each.service == service]

    @cached_property
    def event_types(self) -> list[str]:
        """Every type of event there is, for example ``crm.sales.v1.Deal.won``, sorted."""
        return sorted({event_type(method, emitted) for method in self.methods.values() for emitted in method.emits})

    @cached_property
    def revoking_types(self) -> list[str]:
        """The types of events that end what was given to their record: tokens that name it hold no longer."""
        marked = [
            method for method in self.methods.values() if method.descriptor.GetOptions().Extensions[options_pb2.revokes]
        ]
        return sorted({event_type(method, emitted) for method in marked for emitted in method.emits})

    @cached_property
    def _comments(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for file in self.files.file:
            for location in file.source_code_info.location:
                if location.leading_comments and (name := _name_at(file, list(location.path))):
                    found[name] = " ".join(location.leading_comments.split())
        return found

    def comment(self, full_name: str) -> str:
        """What the contract says of a message, field, enum, value, service or method, by its full name."""
        return self._comments.get(full_name, "")

    def problems(self) -> list[str]:
        """What is missing in the contract, a line each: options, rules and mappings that must be declared."""
        return [problem for method in self.methods.values() for problem in _method_problems(method)] + [
            problem for descriptor in self._declared() for problem in _message_problems(descriptor)
        ]

    def _declared(self) -> Iterator[Descriptor]:
        for file in self.files.file:
            if file.package.startswith(_PACKAGE):
                for message in file.message_type:
                    yield self.pool.FindMessageTypeByName(f"{file.package}.{message.name}")


@lru_cache(maxsize=1)
def load() -> Contract:
    """The contract of this installation: ``RAPPORT_CONTRACT``, or ``gen/contract.binpb``."""
    return Contract(Path(os.environ.get("RAPPORT_CONTRACT", _DEFAULT_PATH)).read_bytes())


def event_type(method: Method, emitted: str) -> str:
    """The full type of an event that ``method`` emits: ``Deal.won`` becomes ``crm.sales.v1.Deal.won``."""
    return f"{method.service.rpartition('.')[0]}.{emitted}"


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    """The descriptor of a message or of its class."""
    return message.DESCRIPTOR  # type: ignore[return-value]


def inner(field: FieldDescriptor) -> Descriptor:
    """The descriptor of the messages that a field holds. Raises TypeError where it holds none."""
    if field.message_type is None:
        raise TypeError(f"{field.full_name} holds no message")
    return field.message_type


@cache
def is_resource(message: Descriptor) -> bool:
    """Whether a message is a record with an id and a history."""
    return bool(message.GetOptions().HasExtension(options_pb2.resource))


@cache
def refs(field: FieldDescriptor) -> tuple[str, ...]:
    """The id prefixes a field may point at; ``*`` for any; empty where it is no id."""
    return tuple(field.GetOptions().Extensions[options_pb2.ref])


@cache
def behaviors(field: FieldDescriptor) -> frozenset[int]:
    """The field's google.api.field_behavior values."""
    return frozenset(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])


def is_output_only(field: FieldDescriptor) -> bool:
    """Whether only the server sets the field."""
    return field_behavior_pb2.OUTPUT_ONLY in behaviors(field)


def is_required(field: FieldDescriptor) -> bool:
    """Whether a record or request cannot be without the field."""
    return field_behavior_pb2.REQUIRED in behaviors(field)


def is_subject(field: FieldDescriptor) -> bool:
    """Whether the records named here show the change on their timelines."""
    return bool(field.GetOptions().Extensions[options_pb2.subject])


def is_personal(field: FieldDescriptor) -> bool:
    """Whether the text may tell something about a person."""
    return field.GetOptions().Extensions[options_pb2.personal] > options_pb2.PERSONAL_NONE


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether the field holds several values."""
    return bool(field.is_repeated)


def _home(package: str) -> str:
    return package.split(".")[1]


def _http(method: MethodDescriptor) -> Http | None:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return Http(verb, getattr(rule, verb), rule.body) if verb else None


def _method_problems(method: Method) -> Iterator[str]:
    if not method.permission:
        yield f"{method.path} declares no permission"
    if method.http is None and not method.internal:
        yield f"{method.path} declares no HTTP mapping"
    if method.http is not None:
        is_get, says = method.http.verb == "get", method.descriptor.GetOptions().HasExtension(options_pb2.writes)
        if is_get and method.writes:
            yield f"{method.path} writes, and is a GET"
        if says == (is_get or bool(method.emits)):
            yield f"{method.path} says {'again' if says else 'nowhere'} whether it writes"


def _message_problems(message: Descriptor) -> Iterator[str]:
    is_input = message.name.endswith("Request") or is_resource(message)
    for field in message.fields:
        options = field.GetOptions()
        if field.type == FieldDescriptor.TYPE_STRING and not options.Extensions[options_pb2.personal]:
            yield f"{field.full_name} does not say whether it is personal"
        if is_input and _needs_rule(field) and not (options.HasExtension(validate_pb2.field) or refs(field)):
            yield f"{field.full_name} declares no rules"


def _needs_rule(field: FieldDescriptor) -> bool:
    if is_output_only(field):
        return False
    return is_repeated(field) or field.type not in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_BOOL)


# Field numbers of FileDescriptorProto and what lies below it, as source locations spell them (descriptor.proto).
_FILE_PARTS = {4: "message_type", 5: "enum_type", 6: "service"}
_PARTS = {
    "message_type": {2: "field", 3: "nested_type", 4: "enum_type"},
    "nested_type": {2: "field", 3: "nested_type", 4: "enum_type"},
    "enum_type": {2: "value"},
    "service": {2: "method"},
}


def _name_at(file: descriptor_pb2.FileDescriptorProto, path: list[int]) -> str:
    """The full name of what a source location points at; empty where it is none of our declarations."""
    node: object = file
    parts, names = _FILE_PARTS, [file.package]
    while len(path) >= 2:
        part = parts.get(path[0])
        if part is None:
            return ""
        node = getattr(node, part)[path[1]]
        names.append(node.name)  # type: ignore[attr-defined]
        parts, path = _PARTS.get(part, {}), path[2:]
    return "" if path or len(names) == 1 else ".".join(names)
