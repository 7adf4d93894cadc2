"""Who runs: the policies a study compares when nobody names them."""

from collections.abc import Sequence

from loadtests.simulation.served import Served
from serving.core.fleet import latency_model
from serving.core.policies.registry import EARLY_DROP, LOOK_AHEAD, NamedPolicy, named_policy

SMALLEST = "fixed:fastest"
"""What headroom is counted from: the smallest variant each request may have, earliest deadline first, early drop.
Its attainment is the best attainable, but for what no scheduler can know ahead."""

DEFAULT = (
    LOOK_AHEAD,
    SMALLEST,
    "fixed:most-accurate",
    "clipper:fastest",
    "infaas",
    "proteus" + EARLY_DROP,
    "slackfit" + EARLY_DROP,
    "slackfit-queue" + EARLY_DROP,
    "max-accuracy" + EARLY_DROP,
)
"""Without a choice: ours, the frame, and each published rule in the form that does it most good."""

PERIODS = 30
"""Of Proteus in a run, where its period is not given: the published ones span 30 and more."""
LEAST_PERIOD_S, MOST_PERIOD_S = 0.01, 30.0


def suite_policies(family: Served) -> tuple[str, ...]:
    """Every policy, as published and with early drop where there is a choice; each variant of the family alone."""
    accuracies = sorted(view.accuracy for view in family.variants)
    rules = (
        "clipper:fastest",
        "clipper:most-accurate",
        "bentoml:fastest",
        "bentoml:most-accurate",
        "infaas",
        f"infaas:{accuracies[len(accuracies) // 2]:g}",
        "proteus",
        "slackfit",
        "slackfit-queue",
        "max-batch",
        "max-accuracy",
    )
    fastest = min(family.variants, key=lambda view: view.table.seconds(1)).name
    alone = (f"fixed:{view.name}" for view in family.variants if view.name != fastest)
    return (LOOK_AHEAD, SMALLEST, *alone, *rules, *(rule + EARLY_DROP for rule in rules))


def with_frame(names: Sequence[str]) -> tuple[str, ...]:
    """The names in their order, each once; `SMALLEST` last where it is not among them."""
    return tuple(dict.fromkeys((*names, SMALLEST)))


def policy_for(name: str, span_s: float) -> NamedPolicy:
    """The policy of that name for a run of `span_s`. Raises `PolicyError`.

    Proteus without a period gets one that fits `PERIODS` times into the run. Within the grid that is shorter than the
    10 and 30 s of its paper, which does it good where the load changes.
    """
    plain = name.removesuffix(EARLY_DROP)
    if plain == "proteus":
        period_s = min(max(span_s / PERIODS, LEAST_PERIOD_S), MOST_PERIOD_S)
        return named_policy(f"proteus:{period_s:.6g}{name.removeprefix(plain)}")
    return named_policy(name)


def check_policies(names: Sequence[str], served: Sequence[Served]) -> None:
    """Raises `PolicyError` where a policy does not exist, or asks for what a family does not have."""
    for name in names:
        policy = policy_for(name, span_s=1.0)
        for family in served:
            policy.make(family.variants, latency_model(family.variants))
