"""Every policy by name, and how a name with its argument is read: `NAME[:ARGUMENT][+early-drop]`."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from serving.core.lookahead import LookAhead, LookAheadSettings
from serving.core.policies.batching import FASTEST, MOST_ACCURATE, PolicyError
from serving.core.policies.bentoml import BentoMl
from serving.core.policies.clipper import Clipper
from serving.core.policies.fixed import Fixed
from serving.core.policies.greedy import MaxAccuracy, MaxBatch
from serving.core.policies.infaas import Infaas
from serving.core.policies.proteus import Proteus
from serving.core.policies.slackfit import SlackFit
from serving.core.scheduler import PolicyFactory

LOOK_AHEAD = "look-ahead"
EARLY_DROP = "+early-drop"


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy as it was asked for, ready to be given a family."""

    name: str
    make: PolicyFactory
    """Raises `PolicyError` when the family lacks a variant the name asks for."""
    admission: bool
    """Whether the door judges by work ahead. The published systems take everything."""


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """One entry of the register."""

    build: Callable[[str, bool], PolicyFactory]
    """From the argument's text and whether to drop early. Raises `ValueError` for an argument it cannot use."""
    argument: str = ""
    """What follows the colon, in words; empty where there is none."""
    default: str | None = None
    """The argument when none is given."""
    admission: bool = False


def named_policy(text: str, look_ahead: LookAheadSettings | None = None) -> NamedPolicy:
    """The policy of that name. `look_ahead` are the parameters of ours. Raises `PolicyError`."""
    if text == LOOK_AHEAD:
        return NamedPolicy(text, lambda views, latency: LookAhead(views, latency, look_ahead), admission=True)
    plain = text.removesuffix(EARLY_DROP)
    name, colon, argument = plain.partition(":")
    kind = POLICIES.get(name)
    if kind is None:
        close = difflib.get_close_matches(name, POLICIES, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(POLICIES)}"
        raise PolicyError(f"there is no policy '{name}'; {hint}")
    if kind.admission:
        raise PolicyError(f"policy '{name}' takes neither an argument nor {EARLY_DROP}: it always drops early")
    if colon and not kind.argument:
        raise PolicyError(f"policy '{name}' takes no argument: write '{name}'")
    chosen = argument or kind.default
    if not chosen and kind.argument:
        raise PolicyError(f"policy '{name}' needs {kind.argument} behind a colon: '{name}:...'")
    try:
        make = kind.build(chosen or "", text.endswith(EARLY_DROP))
    except ValueError:
        raise PolicyError(f"policy '{name}' takes {kind.argument} behind the colon, not '{argument}'") from None
    return NamedPolicy(text, make, kind.admission)


def _number(text: str, least: float, most: float) -> float:
    value = float(text)
    if not least <= value <= most:
        raise ValueError(text)
    return value


def _look_ahead(_argument: str, _early_drop: bool) -> PolicyFactory:
    return LookAhead


def _fixed(argument: str, _early_drop: bool) -> PolicyFactory:
    return lambda views, latency: Fixed(views, latency, argument)


def _clipper(argument: str, early_drop: bool) -> PolicyFactory:
    return lambda views, latency: Clipper(views, latency, argument, early_drop=early_drop)


def _bentoml(argument: str, early_drop: bool) -> PolicyFactory:
    return lambda views, latency: BentoMl(views, latency, argument, early_drop=early_drop)


def _infaas(argument: str, early_drop: bool) -> PolicyFactory:
    floor = _number(argument, 0.0, 1.0)
    return lambda views, latency: Infaas(views, latency, floor, early_drop=early_drop)


def _proteus(argument: str, early_drop: bool) -> PolicyFactory:
    period_s = _number(argument, 0.01, 86_400.0)
    return lambda views, latency: Proteus(views, latency, period_s, early_drop=early_drop)


def _slackfit(within_queue: bool) -> Callable[[str, bool], PolicyFactory]:
    def build(_argument: str, early_drop: bool) -> PolicyFactory:
        return lambda views, latency: SlackFit(views, latency, within_queue=within_queue, early_drop=early_drop)

    return build


def _max_batch(_argument: str, early_drop: bool) -> PolicyFactory:
    return lambda views, latency: MaxBatch(views, latency, early_drop=early_drop)


def _max_accuracy(_argument: str, early_drop: bool) -> PolicyFactory:
    return lambda views, latency: MaxAccuracy(views, latency, early_drop=early_drop)


_VARIANT = f"a variant's name, '{FASTEST}' or '{MOST_ACCURATE}'"

POLICIES: Mapping[str, PolicyKind] = MappingProxyType(
    {
        LOOK_AHEAD: PolicyKind(_look_ahead, admission=True),
        "fixed": PolicyKind(_fixed, _VARIANT),
        "clipper": PolicyKind(_clipper, _VARIANT),
        "bentoml": PolicyKind(_bentoml, _VARIANT),
        "infaas": PolicyKind(_infaas, "an accuracy floor from 0 to 1", "0"),
        "proteus": PolicyKind(_proteus, "a period in seconds", "30"),
        "slackfit": PolicyKind(_slackfit(within_queue=False)),
        "slackfit-queue": PolicyKind(_slackfit(within_queue=True)),
        "max-batch": PolicyKind(_max_batch),
        "max-accuracy": PolicyKind(_max_accuracy),
    }
)
