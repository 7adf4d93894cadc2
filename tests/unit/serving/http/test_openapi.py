"""What the API's own page promises is what it does, whatever it is sent."""

import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import checks
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi_checks

from serving.config import Settings
from serving.http.pages import build_pages
from tests.support.api import Api
from tests.support.gateways import tagged_family

BASE = "http://api"
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.unsupported_method,
]
THERE = {"model": "m", "version": "1"}
"""Path parameters of something that exists."""


def described() -> schemathesis.BaseSchema:
    """The API as its page describes it; nothing of a gateway is needed for that."""
    nobody = cast("Any", None)
    return schemathesis.openapi.from_dict(build_pages(nobody, nobody, nobody, nobody, Settings()).openapi())


OPERATIONS = [found.ok() for found in described().get_all_operations()]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    logger = logging.getLogger("gearshift")
    level = logger.level
    api = Api(tmp_path_factory.mktemp("api"), [tagged_family(), tagged_family("m", "2"), tagged_family("other")])
    yield api
    api.close()
    logger.setLevel(level)  # one of the calls changes it


def test_every_route_is_described() -> None:
    assert len(OPERATIONS) > 30


@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.label for operation in OPERATIONS])
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_request_gets_an_answer_of_the_promised_form(api: Api, operation: Any, data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(list(GenerationMode)))
    case = data.draw(operation.as_strategy(generation_mode=mode))
    if data.draw(st.booleans()):
        case.path_parameters = {name: THERE.get(name, value) for name, value in (case.path_parameters or {}).items()}
    sent = case.as_transport_kwargs(base_url=BASE)
    wanted = {name: sent[name] for name in ("headers", "params", "json") if sent.get(name) is not None}
    if sent.get("data") is not None:
        wanted["content"] = sent["data"]
    answer = api.call(sent["method"], sent["url"], **wanted)
    case.validate_response(Response.from_httpx(answer, verify=False), checks=CHECKS)
    if answer.status_code >= 400:
        assert answer.json().keys() == {"error"}
