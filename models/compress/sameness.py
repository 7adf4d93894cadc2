"""Whether two models give the same answers: what a pass that promises so is held to."""

import numpy as np
import onnx

from models.compress.original import scores_of
from models.compress.workbench import Workbench
from models.session import ModelLoadError, ModelRunError, Session

COMPARED_ROWS = 64


def same(candidate: onnx.ModelProto, model: onnx.ModelProto, bench: Workbench, tolerance: float) -> bool:
    """Whether both take and give the same tensors, and the same scores of some training rows.

    `tolerance` is the most that a score may change, as a share of the largest one. A candidate that does not
    load or run is not the same.
    """
    output, rows = bench.original.output.name, bench.train.take(slice(0, COMPARED_ROWS))
    reference = Session(model.SerializeToString())
    try:
        session = Session(candidate.SerializeToString())
        found = scores_of(session, output, rows)
    except (ModelLoadError, ModelRunError):
        return False
    expected = scores_of(reference, output, rows)
    alike = np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
    return bool(alike) and (session.inputs, session.outputs) == (reference.inputs, reference.outputs)
