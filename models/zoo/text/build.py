"""Build the text family from trained nets: `python -m models.zoo.text.build --help`.

Each net becomes graphs from character numbers to probabilities, with free rows and length. Each file is measured on
the whole test part with the session that serves it, and the manifest states the result and how to measure it again.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.manifest import Budget, Family, Padding, TensorSpec, Variant
from models.zoo import graph, options
from models.zoo.family import Examination, best_first, publish, read_weights, run_build
from models.zoo.text.data import BABEL_VERSION, LANGUAGES, load
from models.zoo.text.nets import LENGTH, NETS, NetPlan, Served
from models.zoo.text.tokens import PADDING
from models.zoo.text.train import member_name

INPUT, OUTPUT = "ids", "probabilities"
BUCKETS = (16, 32, LENGTH)

INPUTS = (
    TensorSpec(name=INPUT, datatype="INT64", shape=(-1, -1), padding=Padding(axis=1, buckets=BUCKETS, value=PADDING)),
)
OUTPUTS = (TensorSpec(name=OUTPUT, datatype="FP32", shape=(-1, len(LANGUAGES)), labels=LANGUAGES),)


def load_trained(work: Path, name: str, member: int, plan: NetPlan) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A trained net in evaluation mode, and the facts that training kept beside its weights."""
    state = read_weights(work, "text", name, member_name(name, member))
    net = plan.make().eval()
    net.load_state_dict(state.pop("weights"))
    return net, state


def export(nets: Sequence[torch.nn.Module], example: NDArray[np.int64]) -> onnx.ModelProto:
    """The served graph of a net or a committee, with free rows and length; `BuildError` if it computes something else.

    `example` are names [n, length] on which both must agree, also when they are filled up further.
    """
    served = Served(nets).eval()
    free = {0: torch.export.Dim("rows"), 1: torch.export.Dim("length", max=LENGTH)}
    model = graph.export(served, example, takes=INPUT, gives=OUTPUT, free=free)
    filled = np.pad(example, ((0, 0), (0, LENGTH - example.shape[1])), constant_values=PADDING)
    graph.require_agreement(model, served, example, filled)
    return model


def shrink_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose tables of vectors are int8, with one scale each: what is looked up becomes float32 again.

    Tables are nearly all of these models. The products with weights stay in float32: in int8 (static, QDQ) they took
    as long or longer at these widths.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    parts = small.graph
    initializers = {item.name: item for item in parts.initializer}
    nodes = []
    for node in parts.node:
        nodes.append(node)
        table = initializers.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(table)
        scale = np.float32(max(float(np.abs(values).max()), 1e-12) / 127)
        name = table.name
        table.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), name))
        parts.initializer.append(numpy_helper.from_array(np.array(scale), f"{name}.scale"))
        # The zero is written out: where it is left out, the optimizer of ONNX Runtime 1.31 turns what follows into
        # uint8, and negative numbers are lost.
        parts.initializer.append(numpy_helper.from_array(np.array(0, np.int8), f"{name}.zero"))
        found = node.output[0]
        node.output[0] = f"{found}.int8"
        nodes.append(helper.make_node("DequantizeLinear", [f"{found}.int8", f"{name}.scale", f"{name}.zero"], [found]))
    del parts.node[:]
    parts.node.extend(nodes)
    # What was noted of the types in between is no longer true.
    del parts.value_info[:]
    onnx.checker.check_model(small, full_check=True)
    return small


def build_net(name: str, work: Path, exam: Examination, folder: Path) -> Iterator[Variant]:
    """Write the variants of one trained net to `folder`, each with its accuracy on the test part."""
    plan = NETS[name]
    trained = [load_trained(work, name, member, plan) for member in range(max(plan.committees))]
    for size in plan.committees:
        nets = [net for net, _ in trained[:size]]
        facts = [facts for _, facts in trained[:size]]
        recipe = {
            "design": plan.design,
            "members": size,
            "parameters": sum(weights.numel() for net in nets for weights in net.parameters()),
            "precision": "int8 tables of n-grams, one scale each; what is looked up is float32 again",
            "training": {
                **{key: value for key, value in facts[0]["run"].items() if key not in ("net", "seed")},
                "seeds": [fact["run"]["seed"] for fact in facts],
                "optimizer": "AdamW, one cycle",
                "minutes": round(sum(fact["seconds"] for fact in facts) / 60, 1),
            },
        }
        exported = export(nets, exam.chosen[0][:5, : BUCKETS[1]])
        yield exam.write(folder, name if size == 1 else f"{name}-x{size}", shrink_tables(exported), recipe)


def build(work: Path, out: Path) -> Family:
    """Build every variant, most accurate first, and put the finished family in place of `out`.

    Raises `BuildError` and `DatasetError`; then `out` is as it was.
    """
    validation, test = load("validation"), load("test")
    exam = Examination(
        family="text",
        dataset=f"Babel {BABEL_VERSION} locale data, held-out names",
        test=(test.ids(), test.labels),
        choices_by="validation",
        chosen=(validation.ids(), validation.labels),
    )

    def make(folder: Path) -> Family:
        variants = [variant for name in NETS for variant in build_net(name, work, exam, folder)]
        return Family(
            name="text",
            version=out.name,
            description=f"Which of {len(LANGUAGES)} languages a short name is in, from the numbers of its characters.",
            license="Apache-2.0; trained on names of the Unicode CLDR (Unicode licence 3.0), from Babel",
            inputs=INPUTS,
            outputs=OUTPUTS,
            default_budget=Budget(latency_ms=100.0, prefer="accuracy"),
            variants=best_first(variants),
        )

    return publish(out, make)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line names; 1 when something it needs is missing or wrong."""
    parser = options.building("text", "Export, shrink and measure the trained nets, and write the family.")
    chosen = parser.parse_args(arguments)
    return run_build(lambda: build(chosen.work.expanduser(), chosen.out), chosen.out)


if __name__ == "__main__":
    sys.exit(main())
