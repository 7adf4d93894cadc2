import pytest

from serving.core.lookahead import LookAhead, LookAheadSettings
from serving.core.policies.batching import PolicyError
from serving.core.policies.fixed import Fixed
from serving.core.policies.infaas import Infaas
from serving.core.policies.proteus import Proteus
from serving.core.policies.registry import POLICIES, named_policy
from serving.core.policies.slackfit import SlackFit
from serving.core.scheduler import Policy
from tests.support.views import exact_model, small_and_large


def made(text: str) -> Policy:
    views = small_and_large()
    return named_policy(text).make(views, exact_model(views))


def test_a_name_makes_its_policy() -> None:
    assert isinstance(made("fixed:v1"), Fixed)
    assert isinstance(made("slackfit-queue+early-drop"), SlackFit)


def test_arguments_and_defaults_reach_the_policy() -> None:
    floors = [made(text)._floor for text in ("infaas", "infaas:0.9") if isinstance(made(text), Infaas)]
    assert floors == [0.0, 0.9]
    periods = [made(text)._period_s for text in ("proteus", "proteus:10") if isinstance(made(text), Proteus)]
    assert periods == [30.0, 10.0]


def test_early_drop_reaches_the_policy() -> None:
    assert [made(text)._early_drop for text in ("clipper:v0", "clipper:v0+early-drop")] == [False, True]


def test_ours_takes_its_settings_and_alone_has_a_door() -> None:
    views, chosen = small_and_large(), LookAheadSettings(utilization=0.5)
    policy = named_policy("look-ahead", chosen).make(views, exact_model(views))
    assert isinstance(policy, LookAhead)
    assert policy._settings is chosen
    arguments = {"fixed": ":v0", "clipper": ":v0", "bentoml": ":v0"}
    doors = {name for name in POLICIES if named_policy(name + arguments.get(name, "")).admission}
    assert doors == {"look-ahead"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fixd:v0", "did you mean 'fixed'"),
        ("nothing-like-it", "there are: look-ahead, fixed"),
        ("fixed", "needs a variant's name"),
        ("fixed:", "needs a variant's name"),
        ("max-batch:3", "takes no argument"),
        ("infaas:much", "a floor from 0 to 1|an accuracy floor from 0 to 1"),
        ("infaas:1.5", "not '1.5'"),
        ("proteus:nan", "a period in seconds"),
        ("look-ahead+early-drop", "always drops early"),
    ],
)
def test_what_cannot_be_used_is_told(text: str, told: str) -> None:
    with pytest.raises(PolicyError, match=told):
        named_policy(text)


def test_a_variant_nobody_has_is_told_with_those_there_are() -> None:
    with pytest.raises(PolicyError, match="'v9'.*fastest, most-accurate, v0, v1"):
        made("fixed:v9")
