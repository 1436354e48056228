"""The contract says of itself all that the platform must know."""

from __future__ import annotations

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


def test_a_verb_is_emitted_by_every_method_that_changes_something() -> None:
    for method in load().methods.values():
        words = ("Get", "List", "BatchGet", "Subscribe", "ReadChanges", "Search", "Verify", "Check", "CreateToken")
        reads = method.name.startswith(words)
        # What the calls of a batch do, or those that take back an agent's, is declared by their own methods; a
        # subscriber's place is no change for others.
        reads = reads or method.name in ("Batch", "RevertAgent", "CommitSubscription")
        assert bool(method.emits) != reads, method.path
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
