"""Durations made up for tests: times that can be worked out on paper."""

from collections.abc import Mapping, Sequence

from loadtests.durations import Durations, Host, Level, VariantDurations

HOST = Host(processor="none", cores=2, onnxruntime="0", python="0", command="by hand", load_average=0.0, seed=0)
SIZES = (1, 2, 4, 8)


def durations_of(
    times_ms: Mapping[str, Sequence[float]],
    *,
    rows: Sequence[int] = SIZES,
    ratios: Sequence[float] = (1.0,),
    full: float = 1.0,
    workers: int = 2,
) -> Durations:
    """Variant `name` takes `times_ms[name][i]` times one of `ratios` for `rows[i]` rows, `full` times that when all
    `workers` are busy."""
    variants = []
    for name, values in times_ms.items():
        levels = [
            Level(
                busy=busy,
                rows=tuple(rows)[: len(values)],
                samples_us=tuple(tuple(value * 1e3 * ratio * factor for ratio in ratios) for value in values),
            )
            for busy, factor in ((1, 1.0), (workers, full))
        ]
        variants.append(VariantDurations(name=name, levels=tuple(levels)))
    return Durations(family="tiny/1", host=HOST, variants=tuple(variants))
