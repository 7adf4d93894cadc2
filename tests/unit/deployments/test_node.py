"""What a raylet is told, without starting one."""

import inspect
import multiprocessing

import pytest
from ray._private import services

from deployments import node


@pytest.mark.parametrize(("usable", "told"), [(1, 2), (2, 2), (3, 3), (64, 4)])
def test_a_raylet_starts_few_workers_ahead(usable: int, told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "usable_cores", lambda: usable)
    with node.few_started_ahead():
        assert services.multiprocessing.cpu_count() == told
    assert services.multiprocessing is multiprocessing


def test_ray_still_counts_cores_where_we_tell_it() -> None:
    """Of the module, only this is replaced: whatever else it used would miss the rest."""
    source = inspect.getsource(services)
    assert source.count("multiprocessing.") == 1
    assert "min(multiprocessing.cpu_count(), num_cpus_static)" in inspect.getsource(services.start_raylet)
