"""`gearshift infer`: one answer from a running gateway."""

import io
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import orjson
import typer
from PIL import Image, UnidentifiedImageError
from rich.table import Table

from deployments.cli.common import JsonOption, err, key_headers, milliseconds, out, print_json
from models.manifest import TensorSpec
from models.session import Tensor

TOP = 3
NUMPY_TYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip


def infer(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="An image, a .npy file, a .json file, or - for standard input.")
    ],
    budget: Annotated[str | None, typer.Option(help="Latency budget: 10ms, 0.5s, 800us.", show_default=False)] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Least accuracy, 0 to 1.", show_default=False)] = None,
    max_energy_mj: Annotated[float | None, typer.Option(help="Most energy, millijoules.", show_default=False)] = None,
    prefer: Annotated[str | None, typer.Option(help="accuracy, latency or energy.", show_default="accuracy")] = None,
    variant: Annotated[str | None, typer.Option(help="Pin one variant.", show_default=False)] = None,
    url: Annotated[
        str, typer.Option(envvar="GEARSHIFT_URL", help="Where the gateway listens.")
    ] = "http://127.0.0.1:8000",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the gateway.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a running gateway, and tell the answer, the variant that gave it, and why.

    A picture is fitted to the model's input: grey or colour, resized, 0-255 for integers and 0-1 for floats. JSON may
    be an array of values or a whole Open Inference Protocol request. Exit code 1 means the gateway refused or failed.
    A gateway that asks for keys gets the one in the environment variable GEARSHIFT_API_KEY.
    """
    parameters: dict[str, Any] = {
        "latency_budget_ms": None if budget is None else milliseconds(budget),
        "min_accuracy": min_accuracy,
        "max_energy_mj": max_energy_mj,
        "prefer": prefer,
        "variant": variant,
    }
    parameters = {key: value for key, value in parameters.items() if value is not None}
    content = _read(source)
    try:
        with httpx.Client(base_url=url, timeout=timeout, headers=key_headers()) as client:
            described = _checked(client.get(f"/v2/models/{model}"))
            body, headers = _request(content, source, described, parameters)
            started_s = time.perf_counter()
            answer = _checked(client.post(f"/v2/models/{model}/infer", content=body, headers=headers))
            round_trip_ms = (time.perf_counter() - started_s) * 1e3
    except httpx.HTTPError as error:
        err.print(f"gearshift: {url} does not answer ({error}): is gearshift serve running?", style="red", markup=False)
        raise typer.Exit(1) from error
    if as_json:
        print_json({**answer, "round_trip_ms": round(round_trip_ms, 3)})
        return
    _show(answer, described, round_trip_ms)


def _checked(response: httpx.Response) -> dict[str, Any]:
    if response.status_code == 200:
        document: dict[str, Any] = response.json()
        return document
    try:
        message = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        message = response.reason_phrase
    err.print(f"gearshift: {response.status_code}: {message}", style="red", markup=False, highlight=False)
    raise typer.Exit(1)


def _read(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{source}: cannot be read: {error.strerror}") from error


def _request(
    content: bytes, source: str, described: dict[str, Any], parameters: dict[str, Any]
) -> tuple[bytes, dict[str, str]]:
    """Body and headers: a whole protocol request as it is, anything else as one binary tensor."""
    document = _json(content)
    if isinstance(document, dict) and "inputs" in document:
        document["parameters"] = {**document.get("parameters", {}), **parameters}
        return orjson.dumps(document), {}
    if len(described["inputs"]) != 1:
        names = ", ".join(spec["name"] for spec in described["inputs"])
        raise typer.BadParameter(f"the model has several inputs ({names}): give a whole request as JSON")
    raw = described["inputs"][0]
    spec = TensorSpec(name=raw["name"], datatype=raw["datatype"], shape=tuple(raw["shape"]))
    if spec.datatype not in NUMPY_TYPES:
        raise typer.BadParameter(f"input '{spec.name}' is {spec.datatype}: give a whole request as JSON")
    array = _tensor(content, document, source, spec)
    head = {
        "inputs": [
            {
                "name": spec.name,
                "shape": list(array.shape),
                "datatype": spec.datatype,
                "parameters": {"binary_data_size": array.nbytes},
            }
        ],
        "parameters": parameters,
    }
    text = orjson.dumps(head)
    return text + array.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def _tensor(content: bytes, document: Any, source: str, spec: TensorSpec) -> Tensor:
    """The input as one array of the model's datatype and rank."""
    if document is not None:
        try:
            array = np.array(document)
        except ValueError as error:
            raise typer.BadParameter(f"{source}: the JSON array is not rectangular") from error
    elif content.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(content), allow_pickle=False)
    else:
        array = _picture(content, source, spec)
    dtype = np.dtype(NUMPY_TYPES[spec.datatype])
    if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "same_kind") and not _fits(array, dtype):
        raise typer.BadParameter(f"{source}: {array.dtype} values do not fit {spec.datatype} of '{spec.name}'")
    if array.ndim == len(spec.shape) - 1:
        array = array[np.newaxis]
    return np.ascontiguousarray(array, dtype=dtype)


def _fits(array: Tensor, dtype: np.dtype[Any]) -> bool:
    """Whether whole numbers stay what they are in a narrower type."""
    return array.dtype.kind in "iu" and dtype.kind in "iu" and bool((array.astype(dtype) == array).all())


def _picture(content: bytes, source: str, spec: TensorSpec) -> Tensor:
    """An image in the model's layout: [H,W], [H,W,C] or [C,H,W] behind the rows."""
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise typer.BadParameter(f"{source}: neither an image, nor .npy, nor JSON") from error
    shape = spec.shape[1:] if len(spec.shape) > 2 else spec.shape
    channels_first = len(shape) == 3 and shape[0] in (1, 3)
    channels = 1 if len(shape) == 2 else (shape[0] if channels_first else shape[2])
    sides = shape[1:] if channels_first else shape[:2]
    if len(shape) not in (2, 3) or channels not in (1, 3):
        raise typer.BadParameter(f"input '{spec.name}' of shape {list(spec.shape)} does not take an image")
    fitted = image.convert("L" if channels == 1 else "RGB")
    if -1 not in sides and fitted.size != (sides[1], sides[0]):
        fitted = fitted.resize((sides[1], sides[0]))
    array: Tensor = np.asarray(fitted)
    if len(shape) == 3:
        array = array.reshape(*array.shape[:2], channels)
        array = array.transpose(2, 0, 1) if channels_first else array
    return array.astype(np.float32) / np.float32(255) if spec.datatype.startswith("FP") else array


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:  # not UTF-8, or not JSON
        return None


def _show(answer: dict[str, Any], described: dict[str, Any], round_trip_ms: float) -> None:
    labels = described.get("gearshift", {}).get("labels", {})
    for output in answer["outputs"]:
        data = np.array(output["data"])
        names = labels.get(output["name"])
        if names and data.size % len(names) == 0:
            for number, row in enumerate(data.reshape(-1, len(names))):
                best = np.argsort(row)[::-1][:TOP]
                ranked = ", ".join(f"{names[i]} {row[i]:.3f}" for i in best[1:])
                where = f"row {number}: " if data.size > len(names) else ""
                out.print(
                    f"{where}[bold]{names[best[0]]}[/bold] {row[best[0]]:.3f}  [dim]{ranked}[/dim]", highlight=False
                )
        else:
            out.print(f"{output['name']} {output['shape']}: {np.array2string(data, threshold=20)}", markup=False)
    told = answer["parameters"]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    accuracy = f", accuracy {told['accuracy']:.4f}" if "accuracy" in told else ""
    table.add_row("variant", f"{told['variant']}{accuracy}")
    table.add_row("reason", f"{told['reason']}, deadline {'met' if told['deadline_met'] else 'missed'}")
    table.add_row(
        "timings",
        f"queue {told['queue_ms']} ms, compute {told['compute_ms']} ms (batch of {told['batch_rows']}), "
        f"predicted {told['predicted_ms']} ms, round trip {round_trip_ms:.2f} ms",
    )
    out.print(table)
