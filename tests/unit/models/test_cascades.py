import numpy as np
import pytest

from models.cascades import (
    ROW_OVERHEAD_S,
    Candidate,
    CascadeError,
    Point,
    Scored,
    candidates,
    choose,
    measure,
    price,
    require_like,
    scale_of,
    score,
    with_cascades,
)
from models.manifest import Cascade, Evidence, Family, LatencyProfile, TensorSpec, Variant

PRICES = {"quick": 1e-4 + 1e-5, "good": 1e-4 + 1e-3}
ACCURACIES = {"quick": 0.8, "good": 0.95}


def drawn(seed: int, rows: int = 4000) -> dict[str, Scored]:
    """Two variants on the same rows; `quick` is unsure exactly where it may be wrong, in two of five rows."""
    random = np.random.default_rng(seed)
    hard = random.random(rows) < 0.4
    found = {}
    for name, right in (("quick", ~hard | (random.random(rows) < 0.5)), ("good", random.random(rows) < 0.95)):
        sure = np.where(hard & (name == "quick"), 0.55, 0.99) + random.random(rows) * 0.004
        scores = np.stack([np.where(right, sure, 1 - sure), np.where(right, 1 - sure, sure)], axis=1)
        found[name] = Scored(scores, right)
    return found


def family() -> Family:
    variants = tuple(
        Variant(name=name, file=f"{name}.onnx", sha256="0" * 64, size_bytes=1, accuracy=accuracy)
        for name, accuracy in ACCURACIES.items()
    )
    x = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
    p = TensorSpec(name="p", datatype="FP32", shape=(-1, 2))
    return Family(name="m", version="3", inputs=(x,), outputs=(p,), variants=variants)


def plain(scored: dict[str, Scored]) -> list[Point]:
    return [Point(PRICES[name], each.accuracy.value) for name, each in scored.items()]


def test_the_best_cascade_sends_on_the_rows_in_doubt() -> None:
    seen, held_out = drawn(1), drawn(2)
    tried = candidates("p", seen, PRICES)
    assert {(each.rule.first, each.rule.then) for each in tried} == {("quick", "good")}
    chosen = choose(tried, plain(seen), most=1)
    (found,) = measure(chosen, held_out, PRICES, ["quick", "good"])
    assert found.rule.escalation == pytest.approx(0.4, abs=0.1)
    assert found.measured.value > held_out["good"].accuracy.value, "where quick is sure it is always right"
    assert found.cost_s == pytest.approx(1e-4 + 1e-5 + 1e-3 * found.rule.escalation)
    assert found.name == f"quick-then-good-{round(found.rule.escalation * 100)}"


def test_what_is_published_was_measured_where_nothing_was_chosen() -> None:
    seen, held_out = drawn(1, rows=300), drawn(2, rows=300)
    chosen = choose(candidates("p", seen, PRICES), plain(seen), most=3)
    for found in measure(chosen, held_out, PRICES, []):
        sure = np.abs(held_out["quick"].scores[:, 0] - held_out["quick"].scores[:, 1])
        if found.rule.confidence == "max":
            sure = held_out["quick"].scores.max(axis=1)
        on = sure < found.rule.threshold
        right = np.where(on, held_out["good"].right, held_out["quick"].right)
        assert (found.measured.right, found.measured.samples) == (right.sum(), 300)
        assert found.rule.escalation == pytest.approx(on.mean(), abs=1e-4)


def test_a_cascade_that_pays_only_where_it_was_chosen_is_dropped() -> None:
    seen = drawn(1)
    chosen = choose(candidates("p", seen, PRICES), plain(seen), most=1)
    swapped = {"quick": drawn(2)["good"], "good": drawn(2)["quick"]}
    assert measure(chosen, swapped, PRICES, []) == []


def point(cost_us: float, accuracy: float) -> Candidate:
    rule = Cascade(first="quick", then="good", output="p", threshold=0.5, escalation=0.1)
    return Candidate(rule, Point(cost_us * 1e-6, accuracy))


def test_each_choice_is_the_greatest_gain_over_what_is_there() -> None:
    ends = [Point(1e-4, 0.8), Point(1e-3, 0.9)]
    tried = [point(200, 0.88), point(210, 0.885), point(500, 0.899), point(120, 0.85)]
    assert choose(tried, ends, most=2) == [tried[1], tried[3]]
    assert choose([point(300, 0.79)], ends, most=2) == []
    assert choose([], ends, most=2) == []


def test_pairs_that_cannot_gain_are_not_tried() -> None:
    seen = drawn(1)
    assert candidates("p", seen, {"quick": 1.0, "good": 0.5}) == []
    assert candidates("p", {"quick": seen["good"], "good": seen["quick"]}, PRICES) == []


def test_names_are_short_and_not_taken() -> None:
    seen = drawn(1)
    chosen = choose(candidates("p", seen, PRICES), plain(seen), most=1)
    taken: list[str] = []
    for start in ("quick-then-good-", "cascade-", "cascade-"):
        (found,) = measure(chosen, seen, PRICES, taken)
        assert found.name.startswith(start)
        assert found.name not in taken
        taken.append(found.name)


def test_prices_are_those_of_the_best_batch() -> None:
    profile = LatencyProfile(rows=(1, 4, 8), seconds=(1.0, 2.0, 8.0))
    assert price(profile) == pytest.approx(0.5 + ROW_OVERHEAD_S)


def test_scores_of_several_batches_stand_in_their_order() -> None:
    class Echo:
        waits = False

        def run(self, inputs, budget_s=0.0):  # type: ignore[no-untyped-def]
            return {"p": np.stack([inputs["x"], -inputs["x"]], axis=1)}

    x = np.linspace(-1, 1, 601)
    found = score(Echo(), {"x": x}, (x < 0).astype(np.int64), "p")
    assert found.right.all()
    np.testing.assert_array_equal(found.scores[:, 0], x)


def test_one_threshold_needs_one_scale() -> None:
    seen = drawn(1)
    logits = Scored(np.log(seen["good"].scores), seen["good"].right)
    assert scale_of(list(seen.values())) == "probabilities"
    assert scale_of([logits]) == "logits"
    with pytest.raises(CascadeError, match="one threshold"):
        scale_of([seen["quick"], logits])


def test_rows_of_another_kind_are_refused() -> None:
    require_like(family(), drawn(2))
    easy = drawn(2)
    with pytest.raises(CascadeError, match=r"'quick' is 0\.8000 accurate by its manifest, but 0\.9"):
        require_like(family(), {"quick": easy["good"], "good": easy["good"]})
    unknown = family().model_copy(update={"variants": (family().variants[0].model_copy(update={"accuracy": None}),)})
    with pytest.raises(CascadeError, match="not known"):
        require_like(unknown, {"quick": easy["quick"]})


def test_the_next_version_has_what_the_last_had_and_the_cascades() -> None:
    seen = drawn(1)
    found = measure(choose(candidates("p", seen, PRICES), plain(seen), most=1), drawn(2), PRICES, [])
    told = Evidence(metric="top-1", dataset="d", samples=4000, command="c")
    richer = with_cascades(family(), found, "4", {found[0].name: told})
    assert (richer.version, richer.variants[:2]) == ("4", family().variants)
    added = richer.variants[2]
    assert (added.cascade, added.evidence) == (found[0].rule, told)
    assert added.accuracy == pytest.approx(found[0].measured.value, abs=1e-4)
    assert Family.model_validate_json(richer.to_json()) == richer
