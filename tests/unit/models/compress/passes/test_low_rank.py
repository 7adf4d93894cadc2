import numpy as np
import pytest

from models.compress import cost, factors, quantizer
from models.compress.errors import Inapplicable
from models.compress.original import scores_of
from models.compress.passes.low_rank import LowRank
from models.session import Session
from tests.support import compress


def share(model, original):
    return cost.multiply_adds(model) / cost.multiply_adds(original.model())


@pytest.mark.parametrize(
    ("make", "keep", "loss"),
    [(compress.digits_mlp, 0.5, 0.02), (compress.digits_cnn, 0.7, 0.04), (compress.digits_tokens, 0.7, 0.02)],
    ids=["mlp", "cnn", "tokens"],
)
def test_multiply_adds_and_bytes_fall_and_accuracy_hardly(tmp_path, make, keep, loss):
    original, dataset = make()
    model = original.model()
    thin = LowRank(keep=keep, epochs=0).apply(model, compress.bench(original, dataset, tmp_path))
    assert share(thin, original) <= keep
    assert len(thin.SerializeToString()) < 0.8 * len(original.content)
    assert compress.accuracy(thin, dataset) >= compress.accuracy(model, dataset) - loss
    assert model.SerializeToString() == original.model().SerializeToString()
    assert Session(thin.SerializeToString()).inputs == original.inputs


def test_recovery_is_no_worse(tmp_path):
    original, dataset = compress.digits_cnn()
    bench = compress.bench(original, dataset, tmp_path)
    raw, learned = (LowRank(keep=0.6, epochs=epochs).apply(original.model(), bench) for epochs in (0, 8))
    assert share(learned, original) == share(raw, original) <= 0.6
    assert bench.score(learned) > bench.score(raw)


@pytest.mark.parametrize("make", [compress.digits_mlp, compress.digits_cnn, compress.digits_tokens])
def test_all_directions_together_are_the_layer(make, tmp_path):
    original, dataset = make()
    model = quantizer.named(original.model())
    layers = factors.splittable(model, cost.shapes(model))
    seen = factors.observed(model, layers, dataset.train.take(slice(0, 300)))
    whole = factors.split(model, [(layer, each, len(layer.weight)) for layer, each in zip(layers, seen, strict=True)])
    assert len(whole.graph.node) == len(model.graph.node) + len(layers)
    expected = original.scores(dataset.test)
    found = scores_of(Session(whole.SerializeToString()), "scores", dataset.test)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_what_is_lost_falls_with_the_rank_and_agrees_with_the_layer(tmp_path):
    original, dataset = compress.digits_mlp()
    model = quantizer.named(original.model())
    rows = dataset.train.take(slice(0, 300))
    layer = factors.splittable(model, cost.shapes(model))[0]
    (seen,) = factors.observed(model, [layer], rows)
    lost = [seen.lost(rank) for rank in range(len(layer.weight) + 1)]
    assert lost[0] == pytest.approx(1.0)
    assert (np.diff(lost) <= 1e-12).all()
    # The first layer reads the inputs themselves, so its responses can be computed here.
    exact = rows.inputs["pixels"] @ layer.weight.T
    centred = exact - exact.mean(axis=0)
    kept = centred @ seen.directions[:, :16] @ seen.directions[:, :16].T
    assert np.square(centred - kept).sum() / np.square(centred).sum() == pytest.approx(lost[16], rel=1e-3)


def test_only_reachable_shares_are_proposed(tmp_path):
    original, dataset = compress.digits_cnn()
    bench = compress.bench(original, dataset, tmp_path)
    assert [step.label for step in LowRank.choices(original.model(), bench)] == ["rank-70"]
    with pytest.raises(Inapplicable, match="no less than 52% of the multiply-adds"):
        LowRank(keep=0.3, epochs=0).apply(original.model(), bench)
