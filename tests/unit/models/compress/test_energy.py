import pytest

from models.compress.energy import ProcessorTimeMeter, open_meter


def zone(root, place, name, counter, wraps_at=10_000_000):
    folder = root / place
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    (folder / "energy_uj").write_text(f"{counter}\n")
    return folder / "energy_uj"


@pytest.fixture
def host(tmp_path):
    """Two packages, the memory of the first, and domains that lie inside or around them."""
    return {
        "first": zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000),
        "core": zone(tmp_path, "intel-rapl:0:0", "core", 0),
        "memory": zone(tmp_path, "intel-rapl:0:1", "dram", 0),
        "second": zone(tmp_path, "intel-rapl:1", "package-1", 0),
        "all": zone(tmp_path, "intel-rapl:2", "psys", 0),
        "again": zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    }


def test_adds_packages_and_memory_and_counts_nothing_twice(tmp_path, host):
    meter = open_meter(10.0, tmp_path)
    assert meter.source == "rapl"
    assert meter.joules() == 0
    for counter in host.values():
        counter.write_text("3000000")
    assert meter.joules() == pytest.approx(2 + 3 + 3)


def test_counts_on_over_a_wrap(tmp_path, host):
    meter = open_meter(10.0, tmp_path)
    host["first"].write_text("9000000")
    assert meter.joules() == pytest.approx(8)
    host["first"].write_text("500000")
    assert meter.joules() == pytest.approx(8 + 1.5)
    assert meter.joules() == pytest.approx(8 + 1.5)


def test_estimates_where_counters_are_missing_or_broken(tmp_path):
    assert open_meter(10.0, tmp_path / "none").source == "estimate"
    zone(tmp_path, "intel-rapl:0", "package-0", "not a number")
    assert open_meter(10.0, tmp_path).source == "estimate"


def test_an_estimate_is_processor_time_times_power():
    now_s = iter([5.0, 7.5])
    assert ProcessorTimeMeter(8.0, lambda: next(now_s)).joules() == pytest.approx(20.0)


def test_without_power_there_is_no_figure(tmp_path):
    meter = open_meter(0.0, tmp_path / "none")
    assert (meter.source, meter.joules()) == ("none", 0.0)
