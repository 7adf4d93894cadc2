from pathlib import Path

import pytest

from loadtests import sidebyside
from loadtests.scenario import read_scenario
from loadtests.sidebyside import main, run_simulated

SCENARIOS = Path(sidebyside.__file__).parent / "scenarios"
LIVE = ("live-steady", "live-bursts", "live-step-10x")


@pytest.mark.parametrize("name", LIVE)
def test_the_live_scenarios_need_no_capacity(name):
    sidebyside._check(read_scenario(SCENARIOS / f"{name}.toml"), sidebyside.POLICIES)


def test_policies_meet_the_same_requests_of_each_seed(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text((SCENARIOS / "live-steady.toml").read_text().replace("duration_s = 30", "requests = 300"))
    (first, second) = run_simulated(sidebyside.POLICIES, read_scenario(file), (1, 2), sidebyside.DEMO, ())
    assert set(first.policies) == set(sidebyside.POLICIES)
    assert first.requests == second.requests == 300
    assert first.span_s != second.span_s
    best, smallest = first.policies["look-ahead"], first.policies[sidebyside.SMALLEST]
    assert best.attainment > 0.9
    assert best.effective_accuracy > smallest.effective_accuracy


def test_what_cannot_be_run_ends_at_once(tmp_path, capsys):
    for text, wrong in (
        ((SCENARIOS / "steady-0.7.toml").read_text(), "give the scenario a 'rate'"),
        ((SCENARIOS / "live-steady.toml").read_text() + "[fleet]\ngateways = 2\n", "one colocated gateway"),
    ):
        file = tmp_path / "s.toml"
        file.write_text(text)
        with pytest.raises(SystemExit) as ended:
            main([str(file), "--out", str(tmp_path / "out")])
        assert ended.value.code == 2
        assert wrong in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([str(SCENARIOS / "live-steady.toml"), "--policies", "nope", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "there is no policy 'nope'" in capsys.readouterr().err
