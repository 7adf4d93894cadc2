"""Which tensors of a family a request names: each input once, outputs at will. The same texts for every transport;
where Triton has words for an error, they begin with its."""

from collections.abc import Container, Mapping, Sequence

from models.manifest import Family, TensorSpec
from serving.codec.shapes import expected_names, show_text
from serving.core.errors import InvalidRequest

Specs = Mapping[str, TensorSpec]


def input_spec(family: Family, specs: Specs, name: str, seen: Container[str]) -> TensorSpec:
    """The spec of an input that a request gives. Raises `InvalidRequest` where there is none, or it was given."""
    spec = specs.get(name)
    if spec is None:
        raise InvalidRequest(
            f"unexpected inference input '{show_text(name)}' for model '{family.name}': it expects "
            f"{expected_names(family.inputs)}"
        )
    if name in seen:
        raise InvalidRequest(f"input '{name}' already exists in request")
    return spec


def require_all(family: Family, specs: Specs, seen: Container[str]) -> None:
    """Raise `InvalidRequest` that names the inputs the request does not give."""
    missing = [name for name in specs if name not in seen]
    if missing:
        given = [name for name in specs if name in seen]
        raise InvalidRequest(
            f"expected {len(specs)} inputs but got {len(given)} inputs for model '{family.name}'. Got input(s) "
            f"{_quoted(given)}, but missing required input(s) {_quoted(missing)}. Please provide all required input(s)."
        )


def output_spec(
    family: Family, specs: Specs, name: str, asked: Container[str], *, classification: int, shared_memory: bool
) -> TensorSpec:
    """The spec of an output that a request asks for. Raises `InvalidRequest` where it cannot be had so."""
    spec = specs.get(name)
    if spec is None:
        raise InvalidRequest(
            f"unexpected inference output '{show_text(name)}' for model '{family.name}': it answers with "
            f"{expected_names(family.outputs)}"
        )
    if name in asked:
        raise InvalidRequest(f"output '{name}' is asked for twice")
    if shared_memory:
        raise InvalidRequest(f"output '{name}': shared memory is not offered")
    if classification and spec.datatype in ("BYTES", "BOOL"):
        raise InvalidRequest(f"output '{name}': classification needs scores, not {spec.datatype}")
    return spec


def _quoted(names: Sequence[str]) -> str:
    return f"[{','.join(repr(name) for name in names)}]"
