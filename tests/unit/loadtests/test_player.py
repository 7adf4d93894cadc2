from loadtests.player import GONE_AFTER, GONE_AFTER_S, Player, Watch
from loadtests.samples import Samples
from loadtests.scenario import Scenario
from loadtests.workload import calls
from tests.support.fake_gateway import METADATA, FakeGateway, answered

SCENARIO = Scenario.model_validate({
    "name": "s", "requests": 40, "arrivals": {"kind": "poisson", "rate": 2000.0},
    "classes": [{"name": "plain", "model": "tiny", "latency_ms": 30_000.0, "rows": {"1": 0.5, "2": 0.5}}],
})  # fmt: skip


class Part:
    scenario = SCENARIO
    seed = 1
    models = {"tiny": METADATA}  # noqa: RUF012
    kinds = frozenset({"plain"})

    def calls(self):
        return calls(SCENARIO, {})


class Event:
    def __init__(self):
        self.fired = []

    def fire(self, **facts):
        self.fired.append(facts)


def played(reply):
    gateway = FakeGateway(reply)
    samples, event = Samples(), Event()
    try:
        gone = Player(Part(), gateway.url, samples, event, 64, 30.0).play(0.0)
    finally:
        gateway.stop()
    return samples, event.fired, gone


def test_every_call_is_sent_and_told_by_class():
    samples, fired, gone = played(lambda number: answered("small") if number % 4 else (429, {"error": "no"}))
    assert gone == ""
    assert len(samples) == len(fired) == 40
    assert {facts["name"] for facts in fired} == {"plain"}
    # The start was long ago, so everything is late: what is told is the time from the intended send.
    assert min(facts["response_time"] for facts in fired) > 30_000 - 1
    texts = {str(facts["exception"]) for facts in fired}
    assert texts == {"late (200)", "rejected (429)"}
    assert samples.columns["status"].count(429) == 10
    assert sorted(set(samples.columns["rows"])) == [1, 2]


def test_failures_are_told_with_their_reasons():
    _, fired, _ = played(lambda number: (500, {"error": "broken"}))
    assert {str(facts["exception"]) for facts in fired} == {"500: broken"}


def test_a_host_is_gone_after_a_row_of_failures_that_lasts():
    watch = Watch()
    told = [watch.gone(answered=False, now_s=10 + 0.1 * number) for number in range(int(GONE_AFTER_S * 10) + 1)]
    assert told.index(True) == len(told) - 1
    assert len(told) > GONE_AFTER


def test_a_host_that_answers_now_and_then_is_not_gone():
    watch = Watch()
    assert not any(watch.gone(answered=number % GONE_AFTER == 0, now_s=float(number)) for number in range(100))


def test_a_few_failures_are_not_enough_however_long_they_take():
    watch = Watch()
    assert not any(watch.gone(answered=False, now_s=100.0 * number) for number in range(GONE_AFTER - 1))
