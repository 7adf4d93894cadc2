import pytest

from models.versions import VersionPolicy, VersionPolicyError, read_policy

PRESENT = ["9", "10", "2", "1"]


def chosen(text: str) -> list[str]:
    policy = read_policy(text)
    found: list[str] = []
    for version in policy.candidates(PRESENT):
        if policy.enough(found):
            break
        found.append(version)
    return found


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("latest", ["10"]),
        ("latest:2", ["10", "9"]),
        ("latest:99", ["10", "9", "2", "1"]),
        ("all", ["10", "9", "2", "1"]),
        ("1, 9", ["9", "1"]),
        ("7", []),
        (" latest ", ["10"]),
    ],
)
def test_a_policy_chooses_by_number_highest_first(text: str, versions: list[str]) -> None:
    assert chosen(text) == versions


@pytest.mark.parametrize("text", ["", "newest", "latest:", "latest:0", "latest:-1", "1,,2", "1.0", "1;2", "all,1"])
def test_what_is_no_policy_is_told_with_the_form(text: str) -> None:
    with pytest.raises(VersionPolicyError, match="latest:N"):
        read_policy(text)


def test_named_versions_are_all_wanted_however_many_are_found() -> None:
    assert not VersionPolicy(newest=1, named=frozenset({"1", "2"})).enough(["2"])
