import json

import pytest

from loadtests.answers import Answer, Attempt
from loadtests.compare import CompareError, Comparison, Figures, main, read_pair
from loadtests.documents import write_document
from loadtests.live import live_run
from loadtests.samples import Samples
from loadtests.scenario import Scenario
from loadtests.workload import Call
from tests.support.fake_gateway import METADATA

SCENARIO = Scenario.model_validate({
    "name": "s", "duration_s": 10.0, "arrivals": {"kind": "poisson", "rate": 1.0},
    "classes": [{"name": "plain", "model": "tiny", "latency_ms": 20.0}],
})  # fmt: skip


def figures(attainment, accuracy, invalid=""):
    return Figures("p", attainment, accuracy, invalid)


@pytest.fixture
def live(tmp_path):
    """Ten requests, of which the first two, in the warm-up, are late; all by `large`, accuracy 0.9."""

    def write(name="live.json", **facts):
        samples = Samples()
        budget = SCENARIO.classes[0].budget()
        for at in range(10):
            answer = Answer(200, "", "large", 1, 0.002)
            call = Call(float(at), "tiny", 1, budget, "plain")
            samples.add(Attempt(call, answer, 0.03 if at < 2 else 0.01, 0.0), 0, ("large", "small"))
        done = live_run(
            samples, SCENARIO, models={"tiny": METADATA}, capacity={}, processes=1, scenario_sha256="0", seed=1,
            host="h", started="now", command="c", **facts,
        )  # fmt: skip
        write_document(done, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def simulated(tmp_path):
    def write(attainment=1.0, accuracy=0.9, policy="look-ahead", cell="s"):
        row = {"attainment": attainment, "effective_accuracy": {"mean": accuracy, "low": 0, "high": 1}}
        file = tmp_path / f"simulated-{policy}.json"
        file.write_text(json.dumps({"cells": [{"cell": cell, "warm_up_s": 2.0, "policies": {policy: row}}]}))
        return file

    return write


@pytest.mark.parametrize(
    ("attainment", "accuracy", "agrees"),
    [(0.9, 0.8, True), (0.9199, 0.8, True), (0.9201, 0.8, False), (0.8799, 0.8, False), (0.9, 0.8101, False)],
)
def test_two_points_of_attainment_and_one_of_accuracy(attainment, accuracy, agrees):
    assert Comparison(figures(attainment, accuracy), figures(0.9, 0.8)).agrees is agrees


def test_an_invalid_run_never_agrees():
    assert not Comparison(figures(0.9, 0.8, "sent too late"), figures(0.9, 0.8)).agrees


def test_the_warm_up_is_left_out_of_both(live, simulated):
    pair = read_pair(live(), simulated())
    assert pair.live.attainment == 1.0
    assert pair.accuracy_points == pytest.approx(0.0)
    assert pair.agrees


def test_several_policies_and_the_exit_code(live, simulated, capsys):
    ours, other = live(), live("other.json", label="infaas")
    pairs = [str(ours), str(simulated()), str(other), str(simulated(policy="infaas"))]
    assert main(pairs) == 0
    told = capsys.readouterr().out
    assert "look-ahead" in told
    assert "infaas" in told
    simulated(attainment=0.97, policy="infaas")
    assert main(pairs) == 1
    assert capsys.readouterr().out.count("DIFFERS") == 1


def test_a_run_that_is_not_complete_fails(live, simulated, capsys):
    assert main([str(live(ended="the host died")), str(simulated())]) == 1
    assert "not valid: the host died" in capsys.readouterr().out


def test_what_cannot_be_compared_is_told(live, simulated, tmp_path):
    with pytest.raises(CompareError, match="policy 'look-ahead' was not simulated, only infaas"):
        read_pair(live(), simulated(policy="infaas"))
    with pytest.raises(CompareError, match="scenario 's' was not simulated, only other"):
        read_pair(live(), simulated(cell="other"))
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(CompareError, match="not what gearshift simulate --json writes"):
        read_pair(live(), tmp_path / "none.json")
    with pytest.raises(SystemExit) as ended:
        main([str(live()), str(tmp_path / "missing.json")])
    assert ended.value.code == 2
    with pytest.raises(SystemExit):
        main([str(live())])
