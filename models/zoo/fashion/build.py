"""Build the demo family from trained nets: `python -m models.zoo.fashion.build --help`.

Each net becomes one graph from bytes to probabilities, in float32 and, where it pays, in int8. Each
file is measured on the whole test set with the session that serves it, and the manifest states the
result and how to measure it again.
"""

import argparse
import hashlib
import logging
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models.compress.dataset import Rows
from models.compress.original import Original
from models.compress.passes.classical import Classical
from models.compress.passes.int8_static import Int8Static
from models.compress.step import Step
from models.compress.workbench import Workbench
from models.evaluate import classifier_of, evaluate
from models.manifest import MANIFEST_NAME, Budget, Evidence, Family, TensorSpec, Variant
from models.session import Session, onnxruntime
from models.zoo.fashion.data import LABELS, DatasetError, Images, load
from models.zoo.fashion.nets import NETS, NetPlan, SeparableNet, Served
from models.zoo.fashion.train import DEFAULT_WORK, HELD_OUT

DEFAULT_OUT = Path("models/zoo/families/fashion/1")
INPUT, OUTPUT = "image", "probabilities"
OPSET = 18
CALIBRATION_ROWS = 1_000
"""Training images that settle the ranges of int8 activations."""
GREATEST_DIFFERENCE = 1e-4
"""Most that a probability may change between PyTorch and the exported float32 graph."""

INPUTS = (TensorSpec(name=INPUT, datatype="UINT8", shape=(-1, 28, 28)),)
OUTPUTS = (TensorSpec(name=OUTPUT, datatype="FP32", shape=(-1, len(LABELS)), labels=LABELS),)


class BuildError(Exception):
    """A family that cannot be built; the message says what is missing or wrong."""


def load_trained(work: Path, name: str, plan: NetPlan) -> tuple[list[torch.nn.Module], dict[str, Any]]:
    """The nets at the end of each training cycle, in evaluation mode, and the facts kept beside their weights."""
    file = work / f"{name}.pt"
    if not file.is_file():
        raise BuildError(f"{file} is missing: python -m models.zoo.fashion.train --nets {name} --work {work}")
    state = torch.load(file, weights_only=True)
    last = state.pop("weights")
    nets = []
    for weights in state.pop("snapshots", [last]):
        nets.append(plan.make().eval())
        nets[-1].load_state_dict(weights)
    return nets, state


def export(nets: Sequence[torch.nn.Module], example: NDArray[np.uint8], *, mirrored: bool = False) -> onnx.ModelProto:
    """The served graph of one or more nets, with a free batch axis; `BuildError` if it computes something else.

    `example` are images, unsigned bytes [n, 28, 28], on which both must agree.
    """
    served = Served(*nets, mirrored=mirrored).eval()
    images = torch.tensor(example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # The exporter warns about its own use of PyTorch.
        program = torch.onnx.export(
            served,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"image": {0: torch.export.Dim("rows")}},
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    strip(model)
    onnx.checker.check_model(model, full_check=True)

    with torch.inference_mode():
        expected = served(images).numpy()
    found = Session(model.SerializeToString()).run({INPUT: example})[OUTPUT]
    difference = float(np.abs(found - expected).max())
    if difference > GREATEST_DIFFERENCE:
        raise BuildError(f"the exported graph differs from PyTorch by {difference:.1e} in a probability")
    return model


def strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes about its own source: stack traces with paths of the maker's machine."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in (model, graph, *graph.node, *values):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")


def bench_of(content: bytes, train: Images, folder: Path) -> Workbench:
    """What the passes of compression need to know: the graph they work on, and the images they may see."""
    whole = {INPUT: train.pixels}
    rows = Rows(whole, train.labels.astype(np.int64))
    return Workbench(
        original=Original("fashion", content, INPUTS, OUTPUTS[0]),
        train=rows.take(slice(0, len(rows) - HELD_OUT)),
        validation=rows.take(slice(len(rows) - HELD_OUT, None)),
        folder=folder,
    )


def build_net(name: str, work: Path, train: Images, test: Images, folder: Path) -> Iterator[Variant]:
    """Write the variants of one trained net to `folder`, each with its accuracy on the test half."""
    plan = NETS[name]
    nets, facts = load_trained(work, name, plan)
    for form in plan.forms:
        chosen = nets if form.committee else nets[-1:]
        model = export(chosen, test.pixels[:5], mirrored=form.mirrored)
        recipe: dict[str, Any] = {
            "design": plan.design,
            "parameters": sum(weights.numel() for net in chosen for weights in net.parameters()),
            "precision": form.precision,
            "mirrored": form.mirrored,
            "nets": len(chosen),
            "training": {
                **facts["run"],
                "optimizer": "SGD, Nesterov momentum, one cycle",
                "computed_in": "bfloat16" if plan.bfloat16 else "float32",
                "minutes": round(facts["seconds"] / 60, 1),
            },
        }
        if form.precision != "fp32":
            bits = 4 if form.precision == "int8w4" else 8
            step = Int8Static(reduce_range=True, rows=CALIBRATION_ROWS, weight_bits=bits)
            model, steps = apply([step], model, train, folder)
            recipe["steps"] = steps
        yield write_variant(folder, f"{name}-{form.name}", model, train, test, recipe)


def apply(
    steps: Sequence[Step], model: onnx.ModelProto, train: Images, folder: Path
) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """The model after steps of compression, and their facts for the manifest.

    Weights of 7 bits (`reduce_range`): with 8, sums of two products could saturate on processors without VNNI,
    and the family is for all.
    """
    for step in steps:
        model = step.apply(model, bench_of(model.SerializeToString(), train, folder.parent))
    strip(model)
    return model, [step.facts() for step in steps]


def build_classical(train: Images, test: Images, folder: Path) -> Variant:
    """The cheapest member: linear in the pixels, trained on the labels."""
    draft = export([SeparableNet(4).eval()], test.pixels[:5])  # for its inputs and outputs alone
    model, steps = apply([Classical(kind="linear")], draft, train, folder)
    return write_variant(folder, "linear", model, train, test, {"design": "logistic regression", "steps": steps})


def write_variant(
    folder: Path, name: str, model: onnx.ModelProto, train: Images, test: Images, recipe: dict[str, Any]
) -> Variant:
    """Write a variant's file and measure it on the test half, and on what training held out."""
    content = model.SerializeToString()
    file = folder / f"{name}.onnx"
    file.write_bytes(content)
    classify = classifier_of(Session(content))
    held_out = evaluate(classify, train.pixels[-HELD_OUT:], train.labels[-HELD_OUT:])
    accuracy = evaluate(classify, test.pixels, test.labels)
    print(
        f"{name:<22}  test {accuracy.value:.4f}  held-out {held_out.value:.4f}  {len(content):>9,} bytes",
        flush=True,
    )
    return Variant(
        name=name,
        file=file.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        accuracy=accuracy.value,
        evidence=Evidence(
            metric="top-1",
            dataset="Fashion-MNIST, test half",
            samples=accuracy.samples,
            command=f"python -m models.evaluate {DEFAULT_OUT} --dataset fashion --variant {name}",
        ),
        recipe={**recipe, "held_out_accuracy": held_out.value, "versions": versions()},
    )


def versions() -> dict[str, str]:
    """What made the artifacts."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime().__version__,
    }


def build(work: Path, out: Path, data: Path | None = None) -> Family:
    """Build every variant, most accurate first, and put the finished family in place of `out`.

    Raises `BuildError` and `DatasetError`; then `out` is as it was.
    """
    train, test = load("train", data), load("test", data)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=out.parent) as draft:
        folder = Path(draft, "new")
        folder.mkdir()
        variants = [variant for name in NETS for variant in build_net(name, work, train, test, folder)]
        variants.append(build_classical(train, test, folder))
        family = Family(
            name="fashion",
            version=out.name,
            description="Which of ten kinds of clothing a 28 x 28 grey image of Fashion-MNIST shows.",
            license="Apache-2.0; trained on Fashion-MNIST (MIT licence, Zalando SE)",
            inputs=INPUTS,
            outputs=OUTPUTS,
            default_budget=Budget(latency_ms=100.0, prefer="accuracy"),
            variants=tuple(sorted(variants, key=lambda variant: -(variant.accuracy or 0.0))),
        )
        (folder / MANIFEST_NAME).write_text(family.to_json(), encoding="utf-8")
        if out.exists():
            out.rename(Path(draft, "old"))
        folder.rename(out)
    return family


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m models.zoo.fashion.build",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Export, quantize and measure the trained nets, and write the family with its manifest.",
        epilog=(
            "Train first: python -m models.zoo.fashion.train\n"
            "Then check:  python -m models.evaluate models/zoo/families/fashion/1 --dataset fashion"
        ),
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data set, as for training")
    parser.add_argument(
        "--work",
        type=Path,
        default=DEFAULT_WORK,
        metavar="DIR",
        help=f"where training kept the weights (default: {DEFAULT_WORK})",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        metavar="DIR",
        help=f"folder of the family's version, replaced as a whole (default: {DEFAULT_OUT})",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line names; 1 when something it needs is missing or wrong."""
    options = parse_arguments(arguments)
    # The quantizer advises what `export` has done already; the exporter names packages it can do without.
    for noisy in (None, "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        family = build(options.work.expanduser(), options.out, options.data)
    except (BuildError, DatasetError) as error:
        print(error, file=sys.stderr)
        return 1
    total = sum(variant.size_bytes for variant in family.variants)
    print(f"{len(family.variants)} variants, {total:,} bytes: {options.out / MANIFEST_NAME}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
