"""What every `VariantBackend` keeps, whatever is behind it.

A test module inherits `BackendSuite` and provides the fixture `subject`: a backend with the four variants below,
of `tests.support.tiny_models`, under one model. The fixture need not close it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from serving.ports import Execution, ModelFailed, Tensors, VariantBackend, WorkerLost

AFFINE, TRIPLE, PICKY, SLOW = "affine", "triple", "picky", "slow"
"""y = 2x + tag; y = 3x + tag; the first, failing unless each tag is 0, 1 or 2; the first, in its own time."""

BUDGET_S = 30.0


@dataclass(frozen=True)
class Subject:
    """A backend, and the model key under which it has the variants."""

    backend: VariantBackend
    model: str


def batch(*tags: float) -> Tensors:
    """One row for each tag; x is made of the tag, so that every row differs."""
    rows = np.array(tags, np.float32).reshape(-1, 1)
    return {"x": np.hstack([rows * 10, rows * 100]), "tag": rows}


def check(outputs: Tensors, tags: Sequence[float], factor: float = 2.0) -> None:
    """The outputs are those of exactly these rows, in order."""
    sent = batch(*tags)
    assert outputs.keys() == {"y", "who"}
    assert outputs["y"].dtype == np.float32
    np.testing.assert_allclose(outputs["y"], sent["x"] * factor + sent["tag"])
    np.testing.assert_array_equal(outputs["who"], sent["tag"])


class BackendSuite:
    """The shared tests."""

    async def run(self, subject: Subject, variant: str, *tags: float) -> Execution:
        return await subject.backend.run(subject.model, variant, batch(*tags), BUDGET_S)

    async def test_it_says_how_much_runs_at_a_time(self, subject: Subject) -> None:
        assert subject.backend.workers >= 1
        assert subject.backend.depth >= 1
        assert subject.backend.batch_overhead_s >= 0

    async def test_a_batch_comes_back_row_by_row(self, subject: Subject) -> None:
        execution = await self.run(subject, AFFINE, 0, 1, 2)
        check(execution.outputs, [0, 1, 2])
        assert execution.compute_s > 0
        assert 0 < execution.service_s <= execution.compute_s

    async def test_the_variant_asked_for_answers(self, subject: Subject) -> None:
        check((await self.run(subject, TRIPLE, 1, 2)).outputs, [1, 2], factor=3.0)

    async def test_batches_at_the_same_time_are_not_mixed_up(self, subject: Subject) -> None:
        tags = [[turn * 10 + row for row in range(turn % 4 + 1)] for turn in range(24)]
        variants = [AFFINE if turn % 3 else TRIPLE for turn in range(24)]
        ended = await asyncio.gather(*(self.run(subject, v, *t) for v, t in zip(variants, tags, strict=True)))
        for execution, sent, variant in zip(ended, tags, variants, strict=True):
            check(execution.outputs, sent, factor=2.0 if variant == AFFINE else 3.0)

    async def test_inputs_are_left_as_they_were(self, subject: Subject) -> None:
        inputs = batch(1, 2)
        for array in inputs.values():
            array.flags.writeable = False
        execution = await subject.backend.run(subject.model, AFFINE, inputs, BUDGET_S)
        check(execution.outputs, [1, 2])
        np.testing.assert_array_equal(inputs["tag"], [[1], [2]])

    async def test_inputs_need_not_be_contiguous(self, subject: Subject) -> None:
        whole = batch(0, 1, 2, 3)
        inputs = {name: array[::2] for name, array in whole.items()}
        check((await subject.backend.run(subject.model, AFFINE, inputs, BUDGET_S)).outputs, [0, 2])

    async def test_a_model_that_fails_is_told_apart_from_a_lost_worker(self, subject: Subject) -> None:
        with pytest.raises(ModelFailed) as caught:
            await self.run(subject, PICKY, 1, 77)
        assert "\n" not in str(caught.value)

    async def test_the_worker_outlives_a_failed_batch(self, subject: Subject) -> None:
        turns = subject.backend.workers * subject.backend.depth + 1
        for _ in range(turns):
            with pytest.raises(ModelFailed):
                await self.run(subject, PICKY, 77)
        check((await self.run(subject, PICKY, 2, 0)).outputs, [2, 0])

    async def test_inputs_the_model_does_not_have_are_the_batch_s_fault(self, subject: Subject) -> None:
        wrong = {"x": np.zeros((1, 5), np.float32), "tag": np.zeros((1, 1), np.float32)}
        with pytest.raises(ModelFailed):
            await subject.backend.run(subject.model, AFFINE, wrong, BUDGET_S)

    async def test_a_budget_that_has_passed_does_not_stop_a_batch(self, subject: Subject) -> None:
        execution = await subject.backend.run(subject.model, AFFINE, batch(1), 0.001)
        check(execution.outputs, [1])

    async def test_giving_up_on_a_result_frees_the_way(self, subject: Subject) -> None:
        given_up = asyncio.ensure_future(self.run(subject, SLOW, 1))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        check((await self.run(subject, AFFINE, 2)).outputs, [2])

    async def test_closing_settles_what_is_in_flight(self, subject: Subject) -> None:
        count = subject.backend.workers * subject.backend.depth + 2
        flying = [asyncio.ensure_future(self.run(subject, SLOW, tag)) for tag in range(count)]
        await asyncio.sleep(0)
        await subject.backend.close()
        for ended in await asyncio.gather(*flying, return_exceptions=True):
            assert isinstance(ended, WorkerLost)

    async def test_a_closed_backend_takes_nothing(self, subject: Subject) -> None:
        await subject.backend.close()
        with pytest.raises(WorkerLost):
            await self.run(subject, AFFINE, 1)

    async def test_closing_twice_does_no_harm(self, subject: Subject) -> None:
        await subject.backend.close()
        await subject.backend.close()
