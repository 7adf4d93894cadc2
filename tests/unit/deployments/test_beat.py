import asyncio
import warnings
from collections.abc import Sequence
from typing import Any

from serving.core.demand import ModelSignals, ReplicaSignals

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray Serve has some at its import
    from ray.exceptions import RayActorError

    from deployments.beat import Beat

LOAD = ReplicaSignals(2.0, 1.0, {"m": ModelSignals(10.0, 0.5, 0.5)})


class Backend:
    """The part of a backend that a beat sets."""

    own = range(4)


class Handle:
    """Workers that answer what they are told to."""

    def __init__(self, *answers: Sequence[object] | BaseException) -> None:
        self._answers = list(answers)
        self.told: list[tuple[str, str, dict[str, float]]] = []
        self.asked = asyncio.Event()

    def broadcast(self, method: str, gateway: str, numbers: dict[str, float]) -> "Handle":
        self.told.append((method, gateway, numbers))
        return self

    async def results_async(self, **_: Any) -> Sequence[object]:
        answer = self._answers.pop(0) if self._answers else []
        self.asked.set()
        if isinstance(answer, BaseException):
            raise answer
        return answer


async def test_a_beat_tells_the_load_and_learns_which_workers_are_its_own() -> None:
    handle, backend = Handle([(1, 2), (1, 2), (0, 1), RayActorError(), (1, 2), (1, 2)]), Backend()
    beat = Beat(handle, backend, lambda: LOAD)  # type: ignore[arg-type]
    await handle.asked.wait()
    await asyncio.sleep(0)
    assert list(backend.own) == [1, 3], "five workers answered, and it is the second of two gateways"
    method, _, numbers = handle.told[0]
    assert method == "hear"
    assert ReplicaSignals.read(numbers) == LOAD
    await beat.close()


async def test_with_no_answer_the_workers_stay() -> None:
    handle, backend = Handle([RayActorError()]), Backend()
    beat = Beat(handle, backend, lambda: None)  # type: ignore[arg-type]
    await handle.asked.wait()
    await asyncio.sleep(0)
    assert backend.own == range(4)
    await beat.close()


async def test_a_beat_that_fails_is_not_the_last() -> None:
    handle, backend = Handle(RayActorError(), [(0, 1)]), Backend()
    beat = Beat(handle, backend, lambda: LOAD)  # type: ignore[arg-type]
    await handle.asked.wait()
    await asyncio.sleep(0)
    await beat.close()
    await beat.once()
    assert backend.own == range(1)
    assert len({gateway for _, gateway, _ in handle.told}) == 1
