from dataclasses import dataclass, field

import numpy as np
import pytest

from models.compress import graph as graphs
from models.compress import sensitivity
from models.compress.original import log_probabilities, scores_of
from models.compress.sensitivity import divergence, sensitivities
from models.session import Session
from tests.support import compress


@dataclass
class Damage:
    """Makes the weights of layers a little wrong, one of them very."""

    worst: str
    made: list = field(default_factory=list)

    def facts(self):
        return {"pass": "damage", "worst": self.worst}

    def prepared(self, model):
        return model

    def layers(self, subject):
        return [node for node in subject.graph.node if node.op_type == "Gemm"]

    def only(self, subject, bench, layers):
        self.made.append(sorted(layers))
        values = graphs.weights(subject)
        changed = {}
        for node in self.layers(subject):
            if node.name in layers:
                name = node.input[1]
                changed[name] = values[name] * np.float32(0.3 if node.name == self.worst else 0.98)
        return graphs.with_weights(subject, changed)


def test_the_damaged_layer_loses_most_and_a_table_is_made_once(tmp_path):
    original, dataset = compress.digits_mlp()
    bench = compress.bench(original, dataset, tmp_path)
    names = [node.name for node in original.model().graph.node if node.op_type == "Gemm"]
    step = Damage(worst=names[1])

    table = sensitivities(step, original.model(), bench)

    assert [(layer.layer, layer.operator) for layer in table] == [(name, "Gemm") for name in names]
    assert max(table, key=lambda layer: layer.loss).layer == names[1]
    assert all(layer.loss > 0 for layer in table)
    assert step.made == [[name] for name in names]
    assert table[0].facts() == {"layer": names[0], "operator": "Gemm", "loss": table[0].loss}
    assert sensitivities(step, original.model(), bench) is table
    assert len(step.made) == 3
    assert sensitivities(Damage(worst=names[0]), original.model(), bench) != table


def test_neighbours_share_a_loss_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(sensitivity, "MOST_EVALUATIONS", 2)
    original, dataset = compress.digits_mlp()
    step = Damage(worst="none")
    table = sensitivities(step, original.model(), compress.bench(original, dataset, tmp_path))
    assert len(step.made) == 2
    assert len(table) == 3
    assert table[0].loss == table[1].loss != table[2].loss
    both = Damage(worst="none").only(original.model(), None, {layer.layer for layer in table[:2]})
    rows = dataset.validation.take(slice(0, sensitivity.ROWS))
    scores = scores_of(Session(both.SerializeToString()), "scores", rows)
    assert 2 * table[0].loss == pytest.approx(divergence(original.scores(rows), scores))


def test_divergence_is_that_of_kullback_and_leibler():
    reference = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    other = np.log(np.array([[0.25, 0.75], [0.9, 0.1]], np.float32))
    expected = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert divergence(reference, other) == pytest.approx(expected, rel=1e-5)
    assert divergence(reference, reference) == 0.0
    # Probabilities mean the same as the logits they come from.
    assert divergence(np.exp(log_probabilities(reference)), other) == pytest.approx(expected, rel=1e-4)
