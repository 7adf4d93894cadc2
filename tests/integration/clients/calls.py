"""What a script needs to try every call of a client, once each, and tell how each ended. Standard library only.

A script has a coroutine `call_NAME(client)` for every public method NAME of the client it drives. One that returns
works; one that raises `Refused` was turned down in clear words, as it should be; any other end is a failure.
"""

import inspect
import json
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

CALL = "call_"


class Refused(Exception):
    """The call is not offered, and said so; holds what the caller was told."""


def public_methods(kind: type) -> set[str]:
    """Everything a user of the client may call."""
    return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}


def complete(kind: type, module: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """The script's calls by method; an error when a method of the client is not tried, or none of its own is."""
    calls = {name.removeprefix(CALL): call for name, call in module.items() if name.startswith(CALL)}
    methods = public_methods(kind)
    missing = methods - calls.keys()
    if missing:
        raise SystemExit(f"not tried: {', '.join(sorted(missing))}")
    return {name: call for name, call in calls.items() if name in methods}


async def answered(value: Any) -> Any:
    """What a method gives, whether it has to be awaited or not."""
    return await value if inspect.isawaitable(value) else value


async def told_why(call: Callable[[], Any], error: type[Exception], *texts: str) -> None:
    """Insist that the call is refused with these words, and raise `Refused` with all of them."""
    try:
        await answered(call())
    except error as refusal:
        message = getattr(refusal, "message", None)
        said = str(message() if callable(message) else refusal)
        for text in texts:
            if text not in said:
                raise AssertionError(f"expected {text!r} in {said!r}") from refusal
        raise Refused(said) from refusal
    raise AssertionError("the call went through")


async def try_all(calls: dict[str, Callable[[], Awaitable[None]]], version: str) -> None:
    """Make every call and print {"version": ..., "calls": {name: [state, text]}} as the last line."""
    report: dict[str, tuple[str, str]] = {}
    for name, call in calls.items():
        try:
            await call()
            report[name] = "works", ""
        except Refused as refusal:
            report[name] = "refused", str(refusal)
        except BaseException:  # noqa: BLE001 - gevent's timeouts and exits too must be told
            report[name] = "failing", traceback.format_exc()
    print(json.dumps({"version": version, "calls": report}))
