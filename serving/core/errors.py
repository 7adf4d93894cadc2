"""The one tree of errors a request can end with.

GearshiftError
├── InvalidRequest          the request cannot be understood or does not fit the model
│   └── PayloadTooLarge     a limit of size was passed
├── Unauthenticated         the caller did not say who it is, or nobody we know
├── UnknownModel            no such model, version or variant
├── ControlRefused          the set of served models cannot be changed as asked
├── Infeasible              no variant can ever meet the budget
├── Rejected                the queue is too long for the budget now; another moment may do
├── Expired                 the deadline passed before the work could start
├── Cancelled               the caller went away
├── Unavailable             not ready, draining, or the worker was lost
├── InputRefusedByModel     the model itself failed on this very input
└── InternalError           our bug

No protocol is known here: `serving.http.errors` maps each to a status.
"""


class GearshiftError(Exception):
    """Root of all. `str(error)` is fit for the caller: fixed texts, no paths, no internals."""


class InvalidRequest(GearshiftError):
    """The request cannot be understood, or does not fit the model. The message says what was expected."""


class PayloadTooLarge(InvalidRequest):
    """The request is larger than a limit. The message names the limit."""


class Unauthenticated(GearshiftError):
    """A key is asked for, and the caller sent none that is known."""


class UnknownModel(GearshiftError):
    """No such model, version or variant."""


class ControlRefused(GearshiftError):
    """The set of served models cannot be changed as asked. The message says why."""


class Infeasible(GearshiftError):
    """No variant can ever meet the budget. The message names the nearest budget that can be met."""


class Rejected(GearshiftError):
    """Refused at the door because of load; `retry_after_s` says when it may be worth another try."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Expired(GearshiftError):
    """The deadline could no longer be met before the work started; nothing was executed."""


class Cancelled(GearshiftError):
    """The caller went away before the answer."""


class Unavailable(GearshiftError):
    """Not ready, draining, or the worker that held the request was lost."""


class InputRefusedByModel(GearshiftError):
    """The model failed on this very input, alone in its batch."""


class InternalError(GearshiftError):
    """A defect of the gateway. The message gives nothing away; the log has the rest."""
