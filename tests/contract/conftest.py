"""Backends for the shared suite: a new one is a new entry of `BACKENDS`."""

from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from models.session import Session
from serving.local_pool import LocalPool
from serving.ports import ModelFailed, Tensors, VariantBackend
from serving.testing import FakeBackend
from tests.contract.backend_suite import AFFINE, PICKY, SLOW, TRIPLE, Subject
from tests.support import tiny_models

MODEL = "tiny/1"


@pytest.fixture(scope="session")
def sessions() -> dict[tuple[str, str], Session]:
    files = {
        AFFINE: tiny_models.affine(),
        TRIPLE: tiny_models.affine(3.0),
        PICKY: tiny_models.picky(3),
        SLOW: tiny_models.slow(),
    }
    return {(MODEL, variant): Session(content) for variant, content in files.items()}


def by_numpy(variant: str, inputs: Tensors) -> Tensors:
    """What the tiny models compute."""
    x, tag = inputs["x"], inputs["tag"]
    if x.shape[1:] != (2,):
        raise ModelFailed("x has a wrong shape")
    if variant == PICKY and not np.isin(tag, (0, 1, 2)).all():
        raise ModelFailed("a tag is out of range")
    return {"y": x * (3 if variant == TRIPLE else 2) + tag, "who": tag.copy()}


class HoldsSlowOnes(FakeBackend):
    """Its slow variant takes until somebody gives up or closes."""

    async def run(self, model, variant, inputs, budget_s, worker=0):  # type: ignore[no-untyped-def] # as in FakeBackend
        self.hold = variant == SLOW
        return await super().run(model, variant, inputs, budget_s, worker)


def fake(_: dict[tuple[str, str], Session]) -> VariantBackend:
    return HoldsSlowOnes(workers=2, depth=2, outputs=by_numpy)


def local_pool(sessions: dict[tuple[str, str], Session]) -> VariantBackend:
    return LocalPool(sessions, workers=2)


BACKENDS: tuple[Callable[[dict[tuple[str, str], Session]], VariantBackend], ...] = (fake, local_pool)


@pytest.fixture(params=BACKENDS, ids=lambda make: make.__name__)
async def subject(request: pytest.FixtureRequest, sessions: dict[tuple[str, str], Session]) -> AsyncIterator[Subject]:
    backend = request.param(sessions)
    yield Subject(backend, MODEL)
    await backend.close()
