"""Ids are TypeIDs: what the specification accepts is accepted, what it refuses is refused."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis import ids


@given(st.uuids())
def test_an_id_gives_back_its_uuid(uuid: UUID) -> None:
    assert ids.decode(ids.encode("contact", uuid)) == ("contact", uuid)


# From valid.json of the TypeID specification 0.3.
@pytest.mark.parametrize(
    ("text", "prefix", "uuid"),
    [
        ("prefix_00000000000000000000000000", "prefix", "00000000-0000-0000-0000-000000000000"),
        ("prefix_7zzzzzzzzzzzzzzzzzzzzzzzzz", "prefix", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
        ("prefix_0123456789abcdefghjkmnpqrs", "prefix", "0110c853-1d09-52d8-d73e-1194e95b5f19"),
        ("prefix_01h455vb4pex5vsknk084sn02q", "prefix", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("pre_fix_00000000000000000000000000", "pre_fix", "00000000-0000-0000-0000-000000000000"),
    ],
)
def test_the_specifications_examples_are_read(text: str, prefix: str, uuid: str) -> None:
    assert ids.decode(text) == (prefix, UUID(uuid))
    assert ids.encode(prefix, UUID(uuid)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "contact",
        "00000000000000000000000000",
        "PREFIX_00000000000000000000000000",
        "12345_00000000000000000000000000",
        "pre.fix_00000000000000000000000000",
        "_prefix_00000000000000000000000000",
        "prefix__00000000000000000000000000",
        "prefix_1234567890123456789012345",
        "prefix_123456789012345678901234567",
        "prefix_8zzzzzzzzzzzzzzzzzzzzzzzzz",
        "prefix_0123456789ABCDEFGHJKMNPQRS",
        "prefix_0000000000000000000000000l",
        "contact_01h455vb4pex5vsknk084sn0\0q",
        "ünicode_00000000000000000000000000",
    ],
)
def test_what_is_no_id_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match="an id"):
        ids.decode(text)


def test_ids_made_later_sort_later() -> None:
    made = [ids.new("contact") for _ in range(1_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
