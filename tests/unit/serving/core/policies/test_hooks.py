"""What the scheduler does for policies that are not ours: it keeps no door for them, and tells them what it sees."""

from serving.core.admission import Admitted, Rejected
from serving.core.policies.registry import named_policy
from serving.core.scheduler import Learner, Scheduler, SchedulerOptions
from tests.support.views import choice, request, small_and_large

BOTH = choice(0, 1)


def scheduler(name: str, **options: object) -> Scheduler:
    return Scheduler(small_and_large(), named_policy(name).make, SchedulerOptions(**options))


def test_without_admission_everything_is_taken_up_to_the_bytes() -> None:
    driven = scheduler("fixed:v0", admission=False, max_bytes=100)
    hopeless = [request(1, BOTH, size_bytes=40) for _ in range(3)]
    verdicts = [driven.offer(each, 0.0, (5.0,)) for each in hopeless]
    assert verdicts[:2] == [Admitted(), Admitted()]
    assert isinstance(verdicts[2], Rejected)
    assert verdicts[2].cause == "bytes"


def test_without_admission_nobody_is_turned_away_unread() -> None:
    assert scheduler("fixed:v0", admission=False).turn_away(0.0, 0.01, 0.0, (5.0,)) is None
    assert scheduler("fixed:v0").turn_away(0.0, 0.01, 0.0, (5.0,)) is not None


def test_a_policy_that_learns_is_told_how_long_batches_took() -> None:
    driven = scheduler("bentoml:v0")
    assert driven.observe(0, 2, 0.004, 1.0) == 2.0
    policy = driven._policy
    assert isinstance(policy, Learner)
    assert list(policy._batches) == [(2, 0.004)]  # type: ignore[attr-defined]


def test_one_that_does_not_learn_is_left_alone() -> None:
    assert scheduler("look-ahead")._learner is None
