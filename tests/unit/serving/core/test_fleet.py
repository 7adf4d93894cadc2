import pytest

from models.manifest import Cascade, Family, LatencyProfile, Remote, TensorSpec, Variant
from serving.core.fleet import latency_model, view_variants


def family(*, batch_axis: int = -1, max_batch_rows: int = 256, accuracies: tuple[float | None, ...]) -> Family:
    tensor = TensorSpec(name="x", datatype="FP32", shape=(batch_axis, 2))
    variants = tuple(
        Variant(name=f"v{index}", file=f"v{index}.onnx", sha256="0" * 64, size_bytes=1, accuracy=accuracy)
        for index, accuracy in enumerate(accuracies)
    )
    return Family(name="m", inputs=(tensor,), outputs=(tensor,), max_batch_rows=max_batch_rows, variants=variants)


FLAT = LatencyProfile(rows=(1, 2, 4, 8), seconds=(0.004, 0.004, 0.004, 0.004), energy_mj_per_row=2.0)
STEEP = LatencyProfile(rows=(1, 2, 4, 8), seconds=(0.001, 0.002, 0.004, 0.008))


def test_views_stand_in_the_order_of_the_manifest() -> None:
    views = view_variants(family(accuracies=(0.9, 0.8)), {"v1": STEEP, "v0": FLAT})
    assert [(v.index, v.name, v.known_accuracy) for v in views] == [(0, "v0", 0.9), (1, "v1", 0.8)]
    assert (views[0].energy_mj_per_row, views[1].energy_mj_per_row) == (2.0, 0.0)
    assert latency_model(views).mean_s(1, 2) == pytest.approx(0.002)


def test_an_unknown_accuracy_is_worth_an_answer_but_stays_unknown() -> None:
    (view,) = view_variants(family(accuracies=(None,)), {"v0": FLAT})
    assert view.known_accuracy is None
    assert view.accuracy == 1.0


def test_the_knee_counts_what_a_batch_costs_besides_the_model() -> None:
    one = family(accuracies=(0.5,), max_batch_rows=8)
    assert view_variants(one, {"v0": STEEP})[0].knee_rows == 1
    assert view_variants(one, {"v0": STEEP}, batch_overhead_s=0.0001)[0].knee_rows == 4


def test_the_family_bounds_a_batch() -> None:
    assert view_variants(family(accuracies=(0.5,), max_batch_rows=4), {"v0": FLAT})[0].knee_rows == 4
    assert view_variants(family(accuracies=(0.5,), batch_axis=3), {"v0": FLAT})[0].knee_rows == 1


def test_a_view_says_what_stands_behind_a_variant() -> None:
    plain = family(accuracies=(0.6, 0.9))
    more = (
        Variant(name="far", remote=Remote(url="http://far", model="m"), accuracy=0.95),
        Variant(
            name="both",
            cascade=Cascade(first="v0", then="v1", output="y", threshold=0.5, escalation=0.5),
            accuracy=0.85,
        ),
    )
    whole = plain.model_copy(update={"variants": (*plain.variants, *more)})
    views = view_variants(whole, {variant.name: FLAT for variant in whole.variants})
    assert [view.elsewhere for view in views] == [False, False, True, False]
    assert [view.cascade for view in views] == [None, None, None, (0, 1)]
