import json

import pytest

from models.compress.measure import Footprint, Quality, Ratio, Speed, Timing
from models.compress.results import Attempt, Entry, Report, Sensitivity, ratios, version_facts
from models.evaluate import Accuracy


def entry(name="original", right=90, ms=8.0, ratio=1.0, size=1000, memory=5000, energy=4.0, **others) -> Entry:
    timings = tuple(Timing(rows, rows * ms / 1e3, rows * ms / 900, 99, Ratio(ratio, ratio, ratio)) for rows in (1, 2))
    return Entry(
        name=name,
        recipe=others.pop("recipe", ()),
        quality=Quality("top-1", Accuracy(right, 100), Accuracy(right, 100), 0.01),
        speed=Speed(timings, timings, 2, 7, energy, "estimate"),
        footprint=Footprint(size, size // 2, memory),
        kept=others.pop("kept", True),
        **others,
    )


def report(*entries, **others) -> Report:
    facts = {
        "model": "net", "reference": "original", "dropped": (), "command": "gearshift compress", "seed": 0,
        "digest": "ab", "rows": {"test": 100},
    }  # fmt: skip
    return Report(entries=entries or (entry(),), **{**facts, **others})


def test_ratios_are_to_the_original():
    small = entry("small", right=88, ms=2.2, ratio=0.25, size=100, memory=2500, energy=1.0)
    found = ratios(small, entry())
    assert found == pytest.approx(
        {"size": 0.1, "stored": 0.1, "memory": 0.5, "latency": 0.25, "busy_latency": 0.25, "energy": 0.25,
         "accuracy_loss": 0.02}
    )  # fmt: skip


def test_the_original_is_exactly_one():
    """However noisy its own turns were."""
    original = entry(ratio=1.03)
    assert ratios(original, original)["latency"] == 1.0
    assert ratios(original, original)["accuracy_loss"] == 0.0


def test_what_is_unknown_has_no_ratio():
    found = ratios(entry("small", memory=None), entry(energy=0.0))
    assert found["memory"] is None
    assert found["energy"] is None


def test_orders_by_accuracy_then_speed():
    made = report(
        entry(), entry("fast", right=80, ms=1), entry("faster", right=80, ms=0.5), entry("out", right=99, kept=False)
    )
    assert [each.name for each in made.kept()] == ["original", "faster", "fast"]
    assert [each["name"] for each in made.facts()["variants"]] == ["out", "original", "faster", "fast"]


def test_the_facts_say_it_all_in_plain_values():
    made = report(
        entry(),
        entry("int8", recipe=({"pass": "int8-static", "per_channel": True},), why="on the frontier"),
        dropped=(Attempt("half", "slower"),),
        sensitivity=Sensitivity((("conv", 0.5),), "nats"),
        gates={"max_accuracy_loss": 0.01},
    )
    facts = json.loads(json.dumps(made.facts(), allow_nan=False))
    variant = next(each for each in facts["variants"] if each["name"] == "int8")
    assert variant["recipe"] == [{"pass": "int8-static", "per_channel": True}]
    assert variant["latency_ms"]["2"]["median_ms"] == pytest.approx(16.0)
    assert variant["busy_latency_ms"]["1"]["ratio"]["median"] == 1.0
    assert variant["interval"][0] < variant["accuracy"] < variant["interval"][1]
    assert {"size_bytes", "memory_bytes", "energy_mj", "energy_source", "kl_nats", "agreement"} <= variant.keys()
    assert facts["dropped"] == [{"name": "half", "why": "slower"}]
    assert facts["sensitivity"]["layers"] == [{"name": "conv", "loss": 0.5}]
    assert facts["gates"] == {"max_accuracy_loss": 0.01}
    assert facts["host"]["cores"] >= 1
    assert "onnxruntime" in facts["versions"]


@pytest.mark.parametrize("entries", [(entry("int8"),), (entry(), entry())])
def test_refuses_entries_without_the_original_or_twice_the_same(entries):
    with pytest.raises(ValueError, match="each name once"):
        report(*entries)


def test_versions_of_what_is_installed():
    assert set(version_facts(("numpy", "no-such-library"))) == {"python", "numpy"}
