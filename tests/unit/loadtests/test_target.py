import copy

import pytest

from loadtests.scenario import Scenario
from loadtests.target import TargetError, capacities, input_specs, read_target, served_as_told
from tests.support.fake_gateway import METADATA


def test_a_model_as_its_gateway_sees_it():
    served = served_as_told(METADATA)
    assert [view.name for view in served.variants] == ["large", "small"]
    assert [view.accuracy for view in served.variants] == [0.9, 0.6]
    assert served.variants[0].table.seconds(2) == pytest.approx(0.003)
    assert served.variants[0].knee_rows == 4
    assert served.watts == pytest.approx((10.0, 0.0))
    assert served.row_bytes == 8
    assert served.durations.of("small").levels[0].medians_s() == pytest.approx((0.0005, 0.001))


def test_an_accuracy_nobody_measured():
    told = copy.deepcopy(METADATA)
    told["gearshift"]["variants"][0]["accuracy"] = None
    assert served_as_told(told).variants[0].known_accuracy is None


def test_capacity_is_that_of_the_fleet_on_the_smallest_variant():
    scenario = Scenario.model_validate({
        "name": "s", "duration_s": 1.0, "fleet": {"workers": 3},
        "arrivals": {"kind": "poisson", "load": 0.5},
        "classes": [{"name": "k", "model": "tiny", "latency_ms": 20.0}],
    })  # fmt: skip
    assert capacities({"tiny": METADATA}, scenario) == {"tiny": pytest.approx(3 * 2 / (0.001 + 0.0002))}


def test_all_models_are_asked_for():
    asked = []

    def get(path):
        asked.append(path)
        return METADATA

    assert list(read_target(["a", "b"], get)) == ["a", "b"]
    assert asked == ["/v2/models/a", "/v2/models/b"]


@pytest.mark.parametrize("told", [{}, {"gearshift": {}}, [], {"gearshift": {"variants": [{"name": "x"}]}}])
def test_another_server_is_told_from_a_gateway(told):
    with pytest.raises(TargetError, match="model 'm': the host does not tell its variants"):
        read_target(["m"], lambda _: told)


def test_padding_belongs_to_its_input():
    told = {
        "inputs": [{"name": "ids", "datatype": "INT64", "shape": [-1, -1]}],
        "gearshift": {"padding": {"ids": {"axis": 1, "buckets": [4], "value": 0}}},
    }
    (spec,) = input_specs(told)
    assert spec.padding is not None
    assert spec.padding.longest == 4
