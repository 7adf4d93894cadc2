from pathlib import Path

import pytest

from loadtests.arrivals import TraceError
from loadtests.playing import Play, last_arrival_s
from loadtests.scenario import Scenario, ScenarioError, read_scenario
from tests.support.fake_gateway import METADATA

MODELS = {"tiny": METADATA}
PLAIN = {"name": "plain", "model": "tiny", "latency_ms": 20.0}


def scenario(**more):
    return Scenario.model_validate(
        {"name": "s", "arrivals": {"kind": "poisson", "rate": 10.0}, "classes": [PLAIN], **more}
    )


def test_the_command_line_says_what_was_asked():
    plain = Play(scenario=Path("s.toml"), host="http://h", out=Path("o.json")).command()
    assert "--processes" not in plain
    assert "--seed" not in plain
    words = Play(
        scenario=Path("s.toml"), host="http://h", out=Path("o.json"), seed=0, trace=Path("t.csv"), tags=("a", "b"),
        processes=3,
    ).command()  # fmt: skip
    for pair in (("--seed", "0"), ("--trace", "t.csv"), ("--tags", "a"), ("--processes", "3"), ("--host", "http://h")):
        assert words[words.index(pair[0]) + 1] == pair[1]
    assert words[words.index("--master-port") + 1] == words[words.index("--master-bind-port") + 1]


def test_a_run_is_as_long_as_its_arrivals():
    assert last_arrival_s(scenario(duration_s=7.0), MODELS) == 7.0
    by_count = last_arrival_s(scenario(requests=1000), MODELS)
    assert by_count == pytest.approx(100, rel=0.2)
    assert last_arrival_s(scenario(requests=1000), MODELS, 2) != by_count


def test_a_load_is_a_share_of_what_the_host_tells():
    loaded = scenario(requests=1000, arrivals={"kind": "poisson", "load": 0.5})
    assert last_arrival_s(loaded, MODELS) == pytest.approx(1000 / (0.5 * 2 * 2 / 0.0012), rel=0.2)


def test_what_cannot_be_run_is_told(tmp_path):
    with pytest.raises(ScenarioError, match="capacity of tiny is not known"):
        last_arrival_s(scenario(duration_s=1.0, arrivals={"kind": "poisson", "load": 0.5}), {})
    file = tmp_path / "s.toml"
    file.write_text(
        'name = "t"\n[arrivals]\nkind = "trace"\nfile = "t.csv"\ncompression = 1\n'
        '[[classes]]\nname = "plain"\nmodel = "tiny"\nlatency_ms = 20\n'
    )
    with pytest.raises(TraceError, match=r"t\.csv: cannot be read"):
        last_arrival_s(read_scenario(file), MODELS)
