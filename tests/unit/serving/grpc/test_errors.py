import pytest
from grpc import StatusCode

from serving.core import errors
from serving.core.errors import (
    Expired,
    GearshiftError,
    InvalidRequest,
    PayloadTooLarge,
    Rejected,
    Unavailable,
    UnknownModel,
)
from serving.grpc.errors import STATUS, CallRefused, Code, code_of, error_fields
from serving.http.errors import STATUS as HTTP_STATUS


def test_the_codes_are_grpcs() -> None:
    assert {code.name: code.value for code in Code} == {name: StatusCode[name].value[0] for name in Code.__members__}


def test_every_error_has_a_code_of_its_own_choice() -> None:
    known = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GearshiftError)]
    assert set(known) - {GearshiftError} <= STATUS.keys()
    assert STATUS.keys() == HTTP_STATUS.keys()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("x"), Code.INVALID_ARGUMENT),
        (PayloadTooLarge("x"), Code.RESOURCE_EXHAUSTED),
        (UnknownModel("x"), Code.NOT_FOUND),
        (Expired("x"), Code.DEADLINE_EXCEEDED),
        (Rejected("x", 0.1), Code.RESOURCE_EXHAUSTED),
        (Unavailable("x"), Code.UNAVAILABLE),
        (CallRefused(Code.UNIMPLEMENTED, "x"), Code.UNIMPLEMENTED),
        (GearshiftError("x"), Code.INTERNAL),
    ],
)
def test_errors_map_to_codes(error: GearshiftError, code: Code) -> None:
    assert code_of(error) is code
    assert (b"grpc-status", b"%d" % code) in error_fields(error)


def test_an_overload_says_when_to_try_again_and_a_size_says_never() -> None:
    assert dict(error_fields(Rejected("x", 0.0201)))[b"grpc-retry-pushback-ms"] == b"21"
    assert dict(error_fields(Rejected("x", 0.0)))[b"grpc-retry-pushback-ms"] == b"1"
    assert dict(error_fields(PayloadTooLarge("x")))[b"grpc-retry-pushback-ms"] == b"-1"
    assert b"grpc-retry-pushback-ms" not in dict(error_fields(InvalidRequest("x")))
    assert dict(error_fields(Unavailable("x")))[b"retry-after"] == b"1"


def test_texts_are_escaped() -> None:
    assert dict(error_fields(InvalidRequest("100 % süß\n")))[b"grpc-message"] == b"100 %25 s%C3%BC%C3%9F%0A"
