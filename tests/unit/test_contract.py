"""The contract says of itself all that the platform must know."""

from __future__ import annotations

from crm.type.v1 import options_pb2
from google.protobuf import descriptor_pb2

from chassis.contract import Contract, event_type, load


def test_nothing_is_missing_in_it() -> None:
    assert load().problems() == []


def test_every_message_field_enum_value_service_and_method_has_a_comment() -> None:
    contract = load()
    silent = []
    for file in contract.files.file:
        if not file.package.startswith("crm."):
            continue
        for message in file.message_type:
            name = f"{file.package}.{message.name}"
            silent += [each for each in (name, *(f"{name}.{field.name}" for field in message.field))
                       if not contract.comment(each)]  # fmt: skip
        for enum in file.enum_type:
            name = f"{file.package}.{enum.name}"
            silent += [each for each in (name, *(f"{name}.{value.name}" for value in enum.value))
                       if not contract.comment(each)]  # fmt: skip
        for service in file.service:
            name = f"{file.package}.{service.name}"
            silent += [each for each in (name, *(f"{name}.{method.name}" for method in service.method))
                       if not contract.comment(each)]  # fmt: skip
    assert silent == []


def test_every_method_says_whether_it_changes_something() -> None:
    words = ("Get", "List", "BatchGet", "Subscribe", "ReadChanges", "Search", "Verify", "Check")
    for method in load().methods.values():
        # Each call of a batch is looked at as if it had come by itself.
        reads = method.name.startswith(words) or method.name == "Batch"
        assert method.writes != reads, method.path


def test_what_changes_something_emits_a_verb_or_says_that_it_writes() -> None:
    silent = {method.name for method in load().methods.values() if method.writes and not method.emits}
    # What takes back an agent's changes calls methods that emit; the others make nothing that is a record.
    assert silent == {"RevertAgent", "CommitSubscription", "CreateToken"}
    for method in load().methods.values():
        for emitted in method.emits:
            assert event_type(method, emitted).rpartition(".")[0] in load().by_message


def test_every_record_keeps_a_history_that_can_be_read_and_gone_back_in() -> None:
    contract = load()
    for kind in contract.resources.values():
        methods = {each.name: each for each in contract.methods_of(f"{kind.full_name}Service")}
        name = str(kind.descriptor.name)
        assert "as_of" in methods[f"Get{name}"].descriptor.input_type.fields_by_name
        assert f"List{name}Revisions" in methods
        # What is never written again, but only decided about, has nothing to go back to.
        assert f"Update{name}" not in methods or f"{name}.reverted" in methods[f"Revert{name}"].emits


def test_every_standard_field_has_its_number() -> None:
    numbers = {"id": 1, "etag": 100, "create_time": 101, "update_time": 102, "delete_time": 103, "owner_id": 104,
               "tags": 105, "external_ids": 106, "custom": 107}  # fmt: skip
    for kind in load().resources.values():
        for field in kind.descriptor.fields:
            if field.name in numbers:
                assert field.number == numbers[field.name], field.full_name


def _without(change: object) -> Contract:
    files = descriptor_pb2.FileDescriptorSet()
    files.CopyFrom(load().files)
    for file in files.file:
        for service in file.service:
            for method in service.method:
                if method.name == "WinDeal":
                    change(method)  # type: ignore[operator]
    return Contract(files.SerializeToString())


def test_a_method_without_permission_or_mapping_is_named() -> None:
    def bare(method: descriptor_pb2.MethodDescriptorProto) -> None:
        method.ClearField("options")

    assert _without(bare).problems() == [
        "/crm.sales.v1.DealService/WinDeal declares no permission",
        "/crm.sales.v1.DealService/WinDeal declares no HTTP mapping",
    ]


def test_a_method_that_does_not_say_whether_it_writes_is_named() -> None:
    def silent(method: descriptor_pb2.MethodDescriptorProto) -> None:
        method.options.ClearExtension(options_pb2.emits)

    def twice(method: descriptor_pb2.MethodDescriptorProto) -> None:
        method.options.Extensions[options_pb2.writes] = False

    assert _without(silent).problems() == ["/crm.sales.v1.DealService/WinDeal says nowhere whether it writes"]
    assert _without(twice).problems() == ["/crm.sales.v1.DealService/WinDeal says again whether it writes"]
