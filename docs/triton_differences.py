"""Where an answer is not Triton's, and why: held to be complete by tests/integration/test_triton_compare.py."""

from docs.blocks import table

_NAMES_PLACE = "names the input and the place in it, and what was expected"
_CALLERS_FAULT = "400: the fault is the caller's"

DIFFERENCES: dict[str, tuple[str, str]] = {
    "unknown path": ("404 `Not Found`", "404 `no such path`, and which"),
    "wrong method": ("405 `Method Not Allowed`", "405 in a sentence, and `Allow`"),
    "readiness of an unknown model": ("400 `Model version not ready`", "404, as on every other path of that model"),
    "statistics of an unknown model": ("400 `requested model ... is not available`", "404, as on every other path"),
    "a version that is no number": ("404 `Not Found`", "404 that names model and version"),
    "classification": (
        "scores with six decimals, so that small ones become 0",
        "scores with the digits that give the same number back",
    ),
    "different numbers of rows": ("names one of the inputs", "names the numbers of rows"),
    "no such datatype": ("`invalid datatype`", "the words for a wrong datatype, with the right one"),
    "too few elements": ("500", f"{_CALLERS_FAULT}; {_NAMES_PLACE}"),
    "an element of another kind": ("500", f"{_CALLERS_FAULT}; {_NAMES_PLACE}"),
    "no data": ("lists the fields of which one must be set", "names the input, and leaves out shared memory"),
    "no rows": ("a mismatch of sizes", "says how many rows a request may have"),
    "shared memory": ("404 for a region nobody registered", "400: not offered"),
    "damaged JSON": ("500", f"{_CALLERS_FAULT}"),
    "JSON without inputs": ("500", f"{_CALLERS_FAULT}"),
    "bytes that are not there": ("names the bytes that are missing", "names the bytes that are there"),
    "changing trace settings": ("200, for one process", "400: tracing is set when the server starts"),
    "logging to a file": ("501", "400 in the same words"),
}
"""(Triton's answer, ours and why) by step of the conversation."""


def differences_block() -> str:
    """The list as a table."""
    return table(("step", "Triton 2.51", "Gearshift"), [(step, *both) for step, both in DIFFERENCES.items()])
