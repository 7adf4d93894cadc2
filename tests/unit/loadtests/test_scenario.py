from math import inf
from pathlib import Path

import pytest

import loadtests
import models
from loadtests.arrivals import Phase
from loadtests.scenario import RowShare, ScenarioError, TraceArrivals, read_scenario
from models.manifest import MANIFEST_NAME, read_manifest
from serving.core.budget import RequestBudget

COMMITTED = sorted((Path(loadtests.__file__).parent / "scenarios").glob("*.toml"))

PLAIN = """
name = "s"
duration_s = 10
[arrivals]
kind = "poisson"
rate = 100
[[classes]]
name = "a"
model = "fashion"
latency_ms = 20
"""


@pytest.fixture
def read(tmp_path):
    def from_text(text, **options):
        file = tmp_path / "s.toml"
        file.write_text(text)
        return read_scenario(file, **options)

    return from_text


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.stem)
def test_committed_scenarios_are_sound_and_named_like_their_files(file):
    scenario = read_scenario(file)
    assert scenario.name == file.stem
    assert scenario.description.endswith((".", "?"))


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.stem)
def test_committed_scenarios_ask_the_demo_family_for_what_it_has(file):
    family = read_manifest(Path(models.__file__).parent / "zoo" / "families" / "fashion" / "1" / MANIFEST_NAME)
    names = {variant.name for variant in family.variants}
    best = max(variant.accuracy for variant in family.variants)
    for entry in read_scenario(file).classes:
        if entry.model == family.name:
            assert entry.variant is None or entry.variant in names
            assert entry.min_accuracy is None or entry.min_accuracy <= best
            assert all(item.rows <= family.max_batch_rows for item in entry.rows)


def test_there_are_the_scenarios_that_the_comparison_needs():
    assert {"steady-0.7", "bursts", "step-10x", "ramp", "overload-5x", "mixed", "two-models", "trace-code"} <= {
        file.stem for file in COMMITTED
    }


def test_a_plain_scenario_has_defaults(read):
    scenario = read(PLAIN)
    (entry,) = scenario.classes
    assert entry.budget() == RequestBudget(latency_s=0.02)
    assert entry.rows == (RowShare(1, 1.0),)
    assert entry.payload.encoding == "binary"
    assert scenario.arrivals.rate == 100
    assert scenario.end_s == 10
    assert scenario.fleet.total_workers == 2
    assert scenario.models() == ("fashion",)


def test_a_class_says_all_that_a_budget_can(read):
    scenario = read(
        PLAIN
        + """
min_accuracy = 0.9
max_energy_mj = 5
variant = "v1"
prefer = "energy"
priority = 3
rows = { 8 = 0.25, 1 = 0.75 }
payload = { encoding = "json", file = "texts.json" }
"""
    )
    (entry,) = scenario.classes
    assert entry.budget() == RequestBudget(0.02, 0.9, 5.0, "energy", "v1", 3)
    assert entry.rows == (RowShare(1, 0.75), RowShare(8, 0.25))
    assert entry.mean_rows == 2.75
    assert entry.payload.file.name == "texts.json"
    assert entry.payload.file.parent.is_dir()  # beside the scenario


def test_phases_are_steps_and_ramps_and_say_when_the_scenario_ends(read):
    phases = "phases = [{duration_s = 5, factor = 2}, {duration_s = 3, from = 2, to = 0.5}]\n[[classes]]"
    scenario = read(PLAIN.replace("duration_s = 10", "").replace("[[classes]]", phases))
    assert [entry.phase() for entry in scenario.arrivals.phases] == [Phase(5, 2, 2), Phase(3, 2, 0.5)]
    assert scenario.end_s == 8


def test_classes_with_arrivals_of_their_own_are_streams_of_their_own(read):
    scenario = read(
        PLAIN
        + """
[[classes]]
name = "b"
model = "text"
latency_ms = 250
arrivals = { kind = "gamma", cv2 = 4, load = 0.2 }
[[classes]]
name = "c"
model = "fashion"
weight = 3
latency_ms = 5
"""
    )
    shared, own = scenario.streams()
    assert (shared.number, [entry.name for entry in shared.classes]) == (0, ["a", "c"])
    assert (own.number, own.arrivals.cv2, [entry.name for entry in own.classes]) == (2, 4, ["b"])
    assert scenario.models() == ("fashion", "text")


TRACE = PLAIN.replace("duration_s = 10", "").replace(
    'kind = "poisson"\nrate = 100', 'kind = "trace"\nfile = "t.csv"\ncompression = 2'
)


def test_a_trace_lies_beside_the_scenario_unless_another_is_given(read, tmp_path):
    scenario = read(TRACE)
    assert isinstance(scenario.arrivals, TraceArrivals)
    assert scenario.arrivals.file == tmp_path / "t.csv"
    assert scenario.end_s == inf
    assert read(TRACE, trace=Path("/elsewhere.csv")).arrivals.file == Path("/elsewhere.csv")
    with pytest.raises(ScenarioError, match="no arrivals of kind 'trace'"):
        read(PLAIN, trace=Path("/elsewhere.csv"))


@pytest.mark.parametrize(
    ("fleet", "workers"),
    [
        ("workers = 3\ngateways = 2", 6),
        ("workers = 3\ngateways = 2\ntopology = 'split'\nrouting = 'two-choices'\nstaleness_ms = 5", 3),
    ],
)
def test_workers_are_each_gateways_own_or_shared(read, fleet, workers):
    assert read(f"{PLAIN}[fleet]\n{fleet}\n").fleet.total_workers == workers


def swap(old, new, text=PLAIN):
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (swap("latency_ms", "latency_s"), "classes[a]: there is no key 'latency_s'; did you mean 'latency_ms'?"),
        (swap("rate = 100", "rat = 100"), "arrivals: there is no key 'rat'; did you mean 'rate'?"),
        (PLAIN + "[fleet]\nworker = 3", "fleet: there is no key 'worker'; did you mean 'workers'?"),
        (PLAIN + "[zzz]\na = 1", "there is no key 'zzz'; there are: name, description, seed"),
        (swap("rate = 100", "rate = 100\ncv2 = 2"), "arrivals: there is no key 'cv2'; there are: rate, load"),
        (swap("rate = 100", "phases = [{start = 1, to = 2}]"), "arrivals.phases[0]: there is no key 'start'"),
        (swap("latency_ms = 20", ""), "classes[a].latency_ms: is missing"),
        (
            swap("latency_ms = 20", "latency_ms = '20'"),
            "classes[a].latency_ms: Input should be a valid number, not '20'",
        ),
        (swap("latency_ms = 20", "latency_ms = 0"), "classes[a].latency_ms: Input should be greater than 0, not 0"),
        (swap("rate = 100", "rate = inf"), "arrivals.rate: Input should be a finite number"),
        (swap("rate = 100", ""), "arrivals: give either 'rate' (requests/s) or 'load'"),
        (swap("rate = 100", "rate = 1\nload = 1"), "arrivals: give either 'rate'"),
        (swap("poisson", "poison"), "arrivals: 'kind' must be 'poisson', 'gamma' or 'trace'"),
        (swap('kind = "poisson"', ""), "arrivals: 'kind' must be"),
        (swap("poisson", "gamma"), "arrivals.cv2: is missing"),
        (swap("rate = 100", "rate = 1\nphases = [{duration_s = 1, from = 2}]"), "arrivals.phases[0]: give either"),
        (swap("rate = 100", "rate = 1\nphases = [{duration_s = 1, factor = 0}]"), "every factor is 0"),
        (swap("duration_s = 10", ""), "the end is missing"),
        (swap("duration_s = 10", "duration_s = 10\nrequests = 5"), "'duration_s' or 'requests', not both"),
        (swap("compression = 2", "compression = 2\nload = 1", TRACE), "arrivals: give exactly one of 'compression'"),
        (swap('file = "t.csv"', "file = 3", TRACE), "arrivals.file: expected the path of a file"),
        (PLAIN + "rows = 0", "classes[a].rows: '0' is not a number of rows"),
        (PLAIN + "rows = true", "classes[a].rows: expected a number of rows, or shares such as"),
        (PLAIN + "rows = {1 = 0.5, 2 = 0.4}", "classes[a].rows: the shares must add up to 1; they add up to 0.9"),
        (PLAIN + "rows = {1 = '1'}", "the share of 1 rows must be a number above 0 and at most 1, not '1'"),
        (PLAIN + "min_accuracy = 1.5", "classes[a].min_accuracy: Input should be less than or equal to 1"),
        (PLAIN + "prefer = 'speed'", "classes[a].prefer: Input should be 'accuracy', 'latency' or 'energy'"),
        (PLAIN + PLAIN[PLAIN.index("[[classes]]") :], "class names must be unique: a"),
        (PLAIN + "weight = 2\narrivals = {kind = 'poisson', rate = 1}", "classes[a]: 'weight' shares out"),
        (PLAIN + "arrivals = {kind = 'poisson', rate = 1}", "[arrivals] serves no class"),
        (
            swap('[arrivals]\nkind = "poisson"\nrate = 100', ""),
            "[arrivals] is missing, and the classes without their own",
        ),
        (PLAIN + "[fleet]\nstaleness_ms = 5", "fleet: staleness_ms needs routing = 'two-choices'"),
        (PLAIN + "[fleet]\nrouting = 'two-choices'", "fleet: routing needs topology = 'split'"),
        (swap("[[classes]]", "[classes]"), "classes: expected a list: [[...]] before each table"),
        (swap("rate = 100", "rate = 1\nphases = [3]"), "arrivals.phases[0]: expected a table, not 3"),
        (swap('[arrivals]\nkind = "poisson"\nrate = 100', "arrivals = 3"), "arrivals: 'kind' must be"),
        (
            TRACE + "[[classes]]\nname = 'b'\nmodel = 'm'\nlatency_ms = 1\narrivals = {kind = 'poisson', rate = 1}",
            "other arrivals go on after the trace: give 'duration_s' or 'requests'",
        ),
        ("name = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_said_with_file_field_and_remedy(read, text, message):
    with pytest.raises(ScenarioError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "s.toml: " in str(caught.value)


def test_all_mistakes_are_told_at_once(read):
    with pytest.raises(ScenarioError, match=r"arrivals\.rate: .*classes\[a\]\.latency_ms: "):
        read(PLAIN.replace("rate = 100", "rate = -1").replace("latency_ms = 20", "latency_ms = -1"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ScenarioError, match=r"none\.toml: cannot be read: No such file"):
        read_scenario(tmp_path / "none.toml")
