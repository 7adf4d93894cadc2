"""The part of a Triton `config.pbtxt` that means something here, for repositories that were made for Triton.

The file is read with the schema that Triton's own client carries. What cannot be served as it asks is refused by name;
what only tunes Triton (instance groups, dynamic batching, optimisation) is left to the scheduler.
"""

from dataclasses import dataclass

from models.manifest import ManifestError
from models.versions import VersionPolicy

CONFIG_NAME = "config.pbtxt"
ONNX_PLATFORMS = frozenset({"", "onnxruntime_onnx"})
ONNX_BACKENDS = frozenset({"", "onnxruntime"})


class TritonConfigError(ManifestError):
    """The file cannot be read, or asks for what cannot be served here; the message says which."""


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """What a configuration says about the one ONNX file beside it."""

    name: str = ""
    """Empty: the folder's."""
    max_batch_size: int = 0
    """0 where the file does not say: the graph's own axes decide."""
    policy: VersionPolicy | None = None
    """None: the server's."""
    label_files: tuple[tuple[str, str], ...] = ()
    """(output, file with one class name a line, beside the configuration)."""


def read_triton_config(text: str) -> TritonConfig:
    """Raises `TritonConfigError`."""
    from google.protobuf import text_format  # a third of a second to import, and few repositories need it
    from tritonclient.grpc import model_config_pb2

    try:
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise TritonConfigError(f"{CONFIG_NAME}: {error}") from error
    if config.platform not in ONNX_PLATFORMS or config.backend not in ONNX_BACKENDS:
        told = config.platform or config.backend
        raise TritonConfigError(f"{CONFIG_NAME}: asks for '{told}'; only ONNX models are served here")
    for field in ("ensemble_scheduling", "sequence_batching"):
        if config.HasField(field):
            raise TritonConfigError(f"{CONFIG_NAME}: {field} is not offered")
    if config.model_transaction_policy.decoupled:
        raise TritonConfigError(f"{CONFIG_NAME}: decoupled transactions are not offered")
    if config.default_model_filename not in ("", "model.onnx"):
        raise TritonConfigError(f"{CONFIG_NAME}: default_model_filename must be model.onnx")
    return TritonConfig(
        name=config.name,
        max_batch_size=config.max_batch_size,
        policy=_policy(config.version_policy),
        label_files=tuple((output.name, output.label_filename) for output in config.output if output.label_filename),
    )


def _policy(told: object) -> VersionPolicy | None:
    match told.WhichOneof("policy_choice"):  # type: ignore[attr-defined]  # generated, and not typed
        case "all":
            return VersionPolicy(newest=None)
        case "specific":
            return VersionPolicy(newest=None, named=frozenset(map(str, told.specific.versions)))  # type: ignore[attr-defined]
        case "latest":
            return VersionPolicy(newest=max(1, told.latest.num_versions))  # type: ignore[attr-defined]
        case _:
            return None
