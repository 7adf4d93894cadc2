import warnings
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray Serve has some at its import
    from ray.serve.request_router import PendingRequest

    from deployments.routing import Booked


@pytest.fixture
def router() -> Booked:
    made = Booked.__new__(Booked)  # Ray's own constructor starts meters
    made._candidates, made._numbered = (), []
    return made


def replicas(*ids: str) -> list[Any]:
    return [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in ids]


def call(**kwargs: Any) -> PendingRequest:
    return PendingRequest(args=[], kwargs=kwargs, metadata=None, future=None)  # type: ignore[arg-type]


async def ranks(router: Booked, candidates: list[Any], pending: PendingRequest | None) -> list[list[str]]:
    return [
        [replica.replica_id.unique_id for replica in rank] for rank in await router.choose_replicas(candidates, pending)
    ]


@pytest.mark.parametrize(
    ("number", "expected"), [(0, ["a", "bc"]), (1, ["b", "ca"]), (2, ["c", "ab"]), (4, ["b", "ca"])]
)
async def test_a_batch_goes_where_it_was_booked_and_elsewhere_only_if_nobody_is_there(
    router: Booked, number: int, expected: list[str]
) -> None:
    found = await ranks(router, replicas("c", "a", "b"), call(worker=number))
    assert ["".join(rank) for rank in found] == expected


async def test_other_calls_go_to_whichever_has_least_to_do(router: Booked) -> None:
    workers = replicas("b", "a")
    assert await ranks(router, workers, call()) == [["a", "b"]]
    assert await ranks(router, workers, None) == [["a", "b"]]


async def test_workers_that_come_and_go_are_numbered_anew(router: Booked) -> None:
    assert await ranks(router, replicas("b", "d"), call(worker=1)) == [["d"], ["b"]]
    assert await ranks(router, replicas("b", "c", "d"), call(worker=1)) == [["c"], ["d", "b"]]
    assert await ranks(router, [], call(worker=1)) == [[]]
