"""Build the text family from trained nets: `python -m models.zoo.text.build --help`.

Each net becomes graphs from character numbers to probabilities, with free rows and length. Each file is measured on
the whole test part with the session that serves it, and the manifest states the result and how to measure it again.
"""

import argparse
import hashlib
import logging
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.evaluate import classifier_of, evaluate
from models.manifest import MANIFEST_NAME, Budget, Evidence, Family, Padding, TensorSpec, Variant
from models.session import Session, onnxruntime
from models.zoo.text.data import BABEL_VERSION, LANGUAGES, DatasetError, Names, load
from models.zoo.text.nets import LENGTH, NETS, NetPlan, Served
from models.zoo.text.tokens import PADDING
from models.zoo.text.train import DEFAULT_WORK, member_name

DEFAULT_OUT = Path("models/zoo/families/text/1")
INPUT, OUTPUT = "ids", "probabilities"
OPSET = 18
BUCKETS = (16, 32, LENGTH)
GREATEST_DIFFERENCE = 1e-4
"""Most that a probability may change between PyTorch and the exported float32 graph, or with the filling."""

INPUTS = (
    TensorSpec(name=INPUT, datatype="INT64", shape=(-1, -1), padding=Padding(axis=1, buckets=BUCKETS, value=PADDING)),
)
OUTPUTS = (TensorSpec(name=OUTPUT, datatype="FP32", shape=(-1, len(LANGUAGES)), labels=LANGUAGES),)


class BuildError(Exception):
    """A family that cannot be built; the message says what is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Part:
    """Names as the models take them [n, length], and their classes [n]."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, names: Names) -> "Part":
        """The numbers of some names."""
        return cls(names.ids(), names.labels)


def load_trained(work: Path, name: str, member: int, plan: NetPlan) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A trained net in evaluation mode, and the facts that training kept beside its weights."""
    file = work / f"{member_name(name, member)}.pt"
    if not file.is_file():
        raise BuildError(f"{file} is missing: python -m models.zoo.text.train --nets {name} --work {work}")
    state = torch.load(file, weights_only=True)
    net = plan.make().eval()
    net.load_state_dict(state.pop("weights"))
    return net, state


def export(nets: Sequence[torch.nn.Module], example: NDArray[np.int64]) -> onnx.ModelProto:
    """The served graph of a net or a committee, with free rows and length; `BuildError` if it computes something else.

    `example` are names [n, length] on which both must agree, also when they are filled up further.
    """
    served = Served(nets).eval()
    ids = torch.tensor(example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # The exporter warns about its own use of PyTorch.
        program = torch.onnx.export(
            served,
            (ids,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"ids": {0: torch.export.Dim("rows"), 1: torch.export.Dim("length", max=LENGTH)}},
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    strip(model)
    onnx.checker.check_model(model, full_check=True)

    with torch.inference_mode():
        expected = served(ids).numpy()
    session = Session(model.SerializeToString())
    for length in (example.shape[1], LENGTH):
        filled = np.pad(example, ((0, 0), (0, length - example.shape[1])), constant_values=PADDING)
        difference = float(np.abs(session.run({INPUT: filled})[OUTPUT] - expected).max())
        if difference > GREATEST_DIFFERENCE:
            raise BuildError(
                f"the exported graph differs from PyTorch by {difference:.1e} in a probability, at length {length}"
            )
    return model


def strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes about its own source: stack traces with paths of the maker's machine."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in (model, graph, *graph.node, *values):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")


def shrink_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose tables of vectors are int8, with one scale each: what is looked up becomes float32 again.

    Tables are nearly all of these models. The products with weights stay in float32: in int8 (static, QDQ) they took
    as long or longer at these widths.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    initializers = {item.name: item for item in graph.initializer}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        table = initializers.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(table)
        scale = np.float32(max(float(np.abs(values).max()), 1e-12) / 127)
        name = table.name
        table.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), name))
        graph.initializer.append(numpy_helper.from_array(np.array(scale), f"{name}.scale"))
        # The zero is written out: where it is left out, the optimizer of ONNX Runtime 1.31 turns what follows into
        # uint8, and negative numbers are lost.
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), f"{name}.zero"))
        found = node.output[0]
        node.output[0] = f"{found}.int8"
        nodes.append(helper.make_node("DequantizeLinear", [f"{found}.int8", f"{name}.scale", f"{name}.zero"], [found]))
    del graph.node[:]
    graph.node.extend(nodes)
    # What was noted of the types in between is no longer true.
    del graph.value_info[:]
    onnx.checker.check_model(small, full_check=True)
    return small


def build_net(name: str, work: Path, parts: dict[str, Part], folder: Path) -> Iterator[Variant]:
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
        exported = export(nets, parts["validation"].ids[:5, : BUCKETS[1]])
        yield write_variant(folder, name if size == 1 else f"{name}-x{size}", shrink_tables(exported), parts, recipe)


def write_variant(
    folder: Path, name: str, model: onnx.ModelProto, parts: dict[str, Part], recipe: dict[str, Any]
) -> Variant:
    """Write a variant's file and measure it on the test part, and on the validation part."""
    content = model.SerializeToString()
    file = folder / f"{name}.onnx"
    file.write_bytes(content)
    classify = classifier_of(Session(content))
    validation = evaluate(classify, parts["validation"].ids, parts["validation"].labels)
    accuracy = evaluate(classify, parts["test"].ids, parts["test"].labels)
    print(
        f"{name:<24}  test {accuracy.value:.4f}  validation {validation.value:.4f}  {len(content):>9,} bytes",
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
            dataset=f"Babel {BABEL_VERSION} locale data, held-out names",
            samples=accuracy.samples,
            command=f"python -m models.evaluate {DEFAULT_OUT} --dataset text --variant {name}",
        ),
        recipe={**recipe, "validation_accuracy": validation.value, "versions": versions()},
    )


def versions() -> dict[str, str]:
    """What made the artifacts."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime().__version__,
    }


def build(work: Path, out: Path) -> Family:
    """Build every variant, most accurate first, and put the finished family in place of `out`.

    Raises `BuildError` and `DatasetError`; then `out` is as it was.
    """
    parts = {part: Part.of(load(part)) for part in ("train", "validation", "test")}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=out.parent) as draft:
        folder = Path(draft, "new")
        folder.mkdir()
        variants = [variant for name in NETS for variant in build_net(name, work, parts, folder)]
        family = Family(
            name="text",
            version=out.name,
            description=f"Which of {len(LANGUAGES)} languages a short name is in, from the numbers of its characters.",
            license="Apache-2.0; trained on names of the Unicode CLDR (Unicode licence 3.0), from Babel",
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
        prog="python -m models.zoo.text.build",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Export, shrink and measure the trained nets, and write the family with its manifest.",
        epilog=(
            "Train first: python -m models.zoo.text.train\n"
            "Then check:  python -m models.evaluate models/zoo/families/text/1 --dataset text"
        ),
    )
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
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # It names packages it can do without.
    try:
        family = build(options.work.expanduser(), options.out)
    except (BuildError, DatasetError) as error:
        print(error, file=sys.stderr)
        return 1
    total = sum(variant.size_bytes for variant in family.variants)
    print(f"{len(family.variants)} variants, {total:,} bytes: {options.out / MANIFEST_NAME}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
