"""What a client script needs to run its checks and tell how they went. Standard library only.

A check is a function `check_...(url)` of the script. The script runs in an interpreter of its own, so that a
client's libraries (gevent, other versions of ours) stay away from the tests, and prints {check: error or null}.
"""

import inspect
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any


def run_all(module: dict[str, Any], runner: Callable[[Awaitable[None]], None] | None = None) -> None:
    """Run every check of a module against the URL in `sys.argv[1]` and print the report."""
    report: dict[str, str | None] = {}
    for name, check in list(module.items()):
        if name.startswith("check_"):
            try:
                outcome = check(sys.argv[1])
                if inspect.isawaitable(outcome) and runner is not None:
                    runner(outcome)
                report[name] = None
            except BaseException:  # noqa: BLE001 - gevent's timeouts and exits too must be told
                report[name] = traceback.format_exc()
    print(json.dumps(report))
