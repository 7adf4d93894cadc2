"""The shared suite against real workers. Run by `test_ray_backend` in a process of its own: Ray fixes the
environment of a process for its life, and this one must be told before anything imports it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.cluster import Cluster, start_cluster
from deployments.options import configure_environment
from models.manifest import Family, Variant
from models.repository import publish
from models.session import Session
from models.trace_context import TRACEPARENT
from serving.config import Settings, load_settings
from serving.ports import Execution, ModelFailed, Tensors, WorkerLost
from tests.contract.backend_suite import AFFINE, BUDGET_S, PICKY, SLOW, TRIPLE, BackendSuite, Subject, batch
from tests.support import tiny_models

APPLICATION = "contract"
WORKERS = 2
TRACED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def family_of(files: dict[str, bytes]) -> Family:
    """One family of these variants, which take and give the same tensors."""
    like = Session(files[AFFINE])
    variants = tuple(
        Variant(name=name, file=f"{name}.onnx", sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        for name, content in files.items()
    )
    return Family(name="tiny", inputs=like.inputs, outputs=like.outputs, max_batch_rows=4, variants=variants)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("models")
    files = {
        AFFINE: tiny_models.affine(),
        TRIPLE: tiny_models.affine(3.0),
        PICKY: tiny_models.picky(3),
        SLOW: tiny_models.slow(),
    }
    publish(root, family_of(files), {f"{name}.onnx": content for name, content in files.items()})
    return load_settings(
        environ={},
        overrides={
            "engine": {"topology": "split", "workers": WORKERS, "runtime_dir": tmp_path_factory.mktemp("run")},
            "models": {"repository": root, "cache_dir": tmp_path_factory.mktemp("profiles")},
        },
    )


@pytest.fixture(scope="session")
def cluster(settings: Settings) -> Iterator[Cluster]:
    configure_environment()
    with start_cluster(settings.run_folder, progress=lambda _: None) as running:
        from deployments.app import workers

        running.deploy(workers(settings), name=APPLICATION, timeout_s=90, progress=lambda _: None)
        yield running


@pytest.fixture
async def subject(cluster: Cluster) -> AsyncIterator[Subject]:
    from ray import serve

    from deployments.app import WORKER
    from deployments.handles import HandleBackend

    backend = HandleBackend(serve.get_deployment_handle(WORKER, app_name=APPLICATION), range(WORKERS))
    yield Subject(backend, "tiny/1")
    await backend.close()


class TestRayBackend(BackendSuite):
    """Worker replicas behind a handle."""

    async def test_batches_wait_for_the_worker_they_were_booked_on_though_another_is_idle(
        self, subject: Subject
    ) -> None:
        ended: list[str] = []

        async def run(name: str, worker: int) -> None:
            await subject.backend.run(subject.model, SLOW, batch(1), BUDGET_S, worker)
            ended.append(name)

        await asyncio.gather(run("first", 0), run("second", 0), run("third", 0), run("beside", 1))
        assert set(ended[:2]) == {"first", "beside"}
        assert ended[2:] == ["second", "third"]

    async def test_a_batch_above_the_limit_goes_by_reference(self, subject: Subject) -> None:
        from deployments.handles import BY_REFERENCE_BYTES
        from tests.contract.backend_suite import check

        tags = [float(n) for n in range(BY_REFERENCE_BYTES // 8)]
        check((await self.run(subject, AFFINE, *tags)).outputs, tags)


class ScriptedHandle:
    """A handle whose calls end as the script says; no cluster behind it."""

    def __init__(self, *ends: object) -> None:
        self._ends = list(ends)
        self.budgets_s: list[float] = []
        self.traced: list[tuple[str, ...]] = []
        self.workers: list[int] = []

    def options(self, **_: object) -> "ScriptedHandle":
        return self

    def remote(
        self, _model: str, _variant: str, _inputs: object, budget_s: float, *traced: str, worker: int
    ) -> asyncio.Future[object]:
        self.budgets_s.append(budget_s)
        self.workers.append(worker)
        self.traced.append(traced)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        end = self._ends.pop(0)
        if isinstance(end, Exception):
            future.set_exception(end)
        else:
            future.set_result(end)
        return future


class TestTraces:
    """A worker goes on in the trace of the batch, if there is one: remote variants are called from there."""

    @pytest.mark.parametrize(("traceparent", "carried"), [(None, ()), (TRACED, (TRACED,))])
    async def test_the_trace_goes_with_the_batch(self, traceparent: str | None, carried: tuple[str, ...]) -> None:
        from deployments.handles import HandleBackend
        from deployments.worker import Ran

        handle = ScriptedHandle(Ran([], 0.1, 0.1))
        backend = HandleBackend(handle, range(WORKERS))
        TRACEPARENT.set(traceparent)  # ends with the task of this test
        await backend.run("tiny/1", AFFINE, batch(1), 1.0)
        await backend.close()
        assert handle.traced == [carried]

    @pytest.mark.parametrize("carried", [(), (TRACED,)])
    async def test_the_worker_runs_the_batch_in_its_trace(self, carried: tuple[str, ...]) -> None:
        from deployments.payload import pack
        from deployments.worker import Ran, Worker

        seen: list[str | None] = []

        async def require(model: str) -> None:
            """It is here."""

        async def run(model: str, variant: str, inputs: Tensors, budget_s: float) -> Execution:
            seen.append(TRACEPARENT.get())
            return Execution(inputs, 0.001, 0.002)

        worker: Any = SimpleNamespace(
            _shelf=SimpleNamespace(require=require), _pool=SimpleNamespace(run=run), _load=SimpleNamespace(busy_s=0.0)
        )
        TRACEPARENT.set("of another call")
        assert isinstance(await Worker.run(worker, "tiny/1", AFFINE, pack(batch(1)), 1.0, *carried), Ran)
        assert seen == [carried[0] if carried else None]


class TestRetries:
    """A lost worker costs one more try, and only while somebody still needs the result."""

    async def run(self, handle: ScriptedHandle, budget_s: float) -> object:
        from deployments.handles import HandleBackend

        backend = HandleBackend(handle, range(WORKERS))
        try:
            return await backend.run("tiny/1", AFFINE, batch(1), budget_s)
        finally:
            await backend.close()

    async def test_a_lost_worker_is_tried_once_elsewhere_with_what_is_left_of_the_budget(self) -> None:
        from deployments.worker import Ran

        handle = ScriptedHandle(ConnectionError("gone"), Ran([], 0.1, 0.1))
        assert await self.run(handle, 5.0) is not None
        assert len(handle.budgets_s) == 2
        assert handle.budgets_s[1] < handle.budgets_s[0] <= 5.0
        assert handle.workers[0] != handle.workers[1]

    async def test_it_is_not_tried_a_third_time(self) -> None:
        handle = ScriptedHandle(*(ConnectionError("gone") for _ in range(3)))
        with pytest.raises(WorkerLost):
            await self.run(handle, 5.0)
        assert len(handle.budgets_s) == 2

    async def test_it_is_not_tried_again_when_the_budget_is_spent(self) -> None:
        handle = ScriptedHandle(ConnectionError("gone"), ConnectionError("gone"))
        with pytest.raises(WorkerLost):
            await self.run(handle, 0.0)
        assert len(handle.budgets_s) == 1

    async def test_what_the_model_refuses_is_not_tried_again(self) -> None:
        from deployments.worker import Refused

        handle = ScriptedHandle(Refused("no"), Refused("no"))
        with pytest.raises(ModelFailed, match="no"):
            await self.run(handle, 5.0)
        assert len(handle.budgets_s) == 1


if __name__ == "__main__":
    # A handle stays on the loop it was first used on, so all tests share one. Ray's own warnings are not ours.
    options = [f"asyncio_default_{what}_loop_scope=session" for what in ("fixture", "test")]
    overrides = [word for option in (*options, "filterwarnings=") for word in ("-o", option)]
    raise SystemExit(pytest.main([str(Path(__file__)), "-q", "-p", "no:cacheprovider", *overrides]))
