"""Build the demo family from trained nets: `python -m models.zoo.fashion.build --help`.

Each net becomes one graph from bytes to probabilities, in float32 and, where it pays, in int8. Each
file is measured on the whole test set with the session that serves it, and the manifest states the
result and how to measure it again.
"""

import sys
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
from models.manifest import Budget, Family, TensorSpec, Variant
from models.zoo import graph, options
from models.zoo.family import Examination, best_first, publish, read_weights, run_build
from models.zoo.fashion.data import LABELS, Images, load
from models.zoo.fashion.nets import NETS, NetPlan, SeparableNet, Served
from models.zoo.fashion.train import HELD_OUT

INPUT, OUTPUT = "image", "probabilities"
CALIBRATION_ROWS = 1_000
"""Training images that settle the ranges of int8 activations."""

INPUTS = (TensorSpec(name=INPUT, datatype="UINT8", shape=(-1, 28, 28)),)
OUTPUTS = (TensorSpec(name=OUTPUT, datatype="FP32", shape=(-1, len(LABELS)), labels=LABELS),)


def load_trained(work: Path, name: str, plan: NetPlan) -> tuple[list[torch.nn.Module], dict[str, Any]]:
    """The nets at the end of each training cycle, in evaluation mode, and the facts kept beside their weights."""
    state = read_weights(work, "fashion", name, name)
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
    model = graph.export(served, example, takes=INPUT, gives=OUTPUT, free={0: torch.export.Dim("rows")})
    graph.require_agreement(model, served, example)
    return model


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


def build_net(name: str, work: Path, train: Images, exam: Examination, folder: Path) -> Iterator[Variant]:
    """Write the variants of one trained net to `folder`, each with its accuracy on the test half."""
    plan = NETS[name]
    nets, facts = load_trained(work, name, plan)
    for form in plan.forms:
        chosen = nets if form.committee else nets[-1:]
        model = export(chosen, exam.test[0][:5], mirrored=form.mirrored)
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
        yield exam.write(folder, f"{name}-{form.name}", model, recipe)


def apply(
    steps: Sequence[Step], model: onnx.ModelProto, train: Images, folder: Path
) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """The model after steps of compression, and their facts for the manifest.

    Weights of 7 bits (`reduce_range`): with 8, sums of two products could saturate on processors without VNNI,
    and the family is for all.
    """
    for step in steps:
        model = step.apply(model, bench_of(model.SerializeToString(), train, folder.parent))
    graph.strip(model)
    return model, [step.facts() for step in steps]


def build_classical(train: Images, exam: Examination, folder: Path) -> Variant:
    """The cheapest member: linear in the pixels, trained on the labels."""
    draft = export([SeparableNet(4).eval()], exam.test[0][:5])  # for its inputs and outputs alone
    model, steps = apply([Classical(kind="linear")], draft, train, folder)
    return exam.write(folder, "linear", model, {"design": "logistic regression", "steps": steps})


def build(work: Path, out: Path, data: Path | None = None) -> Family:
    """Build every variant, most accurate first, and put the finished family in place of `out`.

    Raises `BuildError` and `DatasetError`; then `out` is as it was.
    """
    train, test = load("train", data), load("test", data)
    exam = Examination(
        family="fashion",
        dataset="Fashion-MNIST, test half",
        test=(test.pixels, test.labels),
        choices_by="held_out",
        chosen=(train.pixels[-HELD_OUT:], train.labels[-HELD_OUT:]),
    )

    def make(folder: Path) -> Family:
        variants = [variant for name in NETS for variant in build_net(name, work, train, exam, folder)]
        variants.append(build_classical(train, exam, folder))
        return Family(
            name="fashion",
            version=out.name,
            description="Which of ten kinds of clothing a 28 x 28 grey image of Fashion-MNIST shows.",
            license="Apache-2.0; trained on Fashion-MNIST (MIT licence, Zalando SE)",
            inputs=INPUTS,
            outputs=OUTPUTS,
            default_budget=Budget(latency_ms=100.0, prefer="accuracy"),
            variants=best_first(variants),
        )

    return publish(out, make)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line names; 1 when something it needs is missing or wrong."""
    parser = options.building("fashion", "Export, quantize and measure the trained nets, and write the family.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data set, as for training")
    chosen = parser.parse_args(arguments)
    return run_build(lambda: build(chosen.work.expanduser(), chosen.out, chosen.data), chosen.out)


if __name__ == "__main__":
    sys.exit(main())
