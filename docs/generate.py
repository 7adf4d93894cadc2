"""The tables that restate the code: `python -m docs.generate` writes them, `--check` tells which are stale.

Every table is made from the object the program itself uses, so a page cannot promise what is not there.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin

import typer

from deployments.cli.main import app
from docs.blocks import ROOT, code, filled, table
from docs.client_table import clients_block
from docs.measure import frontier_table
from docs.technique_table import techniques_table
from docs.triton_differences import differences_block
from monitoring.dashboard import dashboard_rows
from monitoring.rules import alerts, anchor, recordings
from serving.codec import budget
from serving.config import ENV_PREFIX, Settings, setting_names
from serving.grpc.errors import STATUS as GRPC_STATUS
from serving.http.errors import STATUS
from serving.metrics import DERIVED, TABLE, Spec

FACTORY_DEFAULTS = {
    ("engine", "runtime_dir"): "gearshift-UID in the folder for temporary files",
    ("models", "mirror_dir"): "gearshift/repository in $XDG_CACHE_HOME, else in ~/.cache",
    ("models", "cache_dir"): "gearshift/profiles in $XDG_CACHE_HOME, else in ~/.cache",
}
"""Defaults that depend on user and host, in words."""

UNITS = {
    "_s": "seconds",
    "_bytes": "bytes",
    "_port": "port, 0 to 65535",
    "watts_per_core": "watts",
    "energy_weight": "accuracy a millijoule",
    "utilization": "share, 0 to 1",
    "min_success": "probability, 0 to 1",
    "plan_quantile": "share, 0 to 1",
    "sample_ratio": "share, 0 to 1",
    "request_share": "share, 0 to 1",
    "backlog": "connections",
    "max_connections": "connections",
    "max_headers": "lines",
    "replicas": "processes",
    "target_busy": "share, above 0, at most 1",
    "max_accuracy_forgone": "accuracy, 0 to 1",
    "min_attainment": "share, 0 to 1",
    "max_up_factor": "factor, 1 or more",
    "max_down_share": "share, above 0, at most 1",
    "workers": "batches",
}
"""Unit by the end of a setting's name."""

BUDGET = {
    budget.LATENCY: (
        f"milliseconds, above 0, at most {budget.MAX_LATENCY_MS:,.0f}",
        "Time from the receipt of the request to its answer. The deadline is counted from the last byte of the body.",
    ),
    budget.ACCURACY: ("0 to 1", "Only variants measured to be at least this accurate may answer."),
    budget.ENERGY: ("millijoules, above 0", "Most energy the whole request may cost, all rows together."),
    budget.PREFER: (
        "`accuracy`, `latency`, `energy`",
        "What to want most of what the budget allows. `latency` and `energy` leave one: fastest, or most frugal.",
    ),
    budget.VARIANT: ("name of a variant", "Pin one variant: no other will answer, whatever the load."),
}
"""(values, meaning) of each budget parameter."""

Block = Callable[[], str]


def settings_block() -> str:
    """One table a section of the settings."""
    parts = []
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        about = (getattr(kind, "__doc__", None) or "").strip()
        rows = [_setting_row(section, key) for at, key in setting_names() if at == section]
        head = ("setting", "environment variable", "default", "unit or values", "meaning")
        parts.append(f"### `[{section}]`\n\n{about}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def metrics_block() -> str:
    """The metrics that are counted."""
    return _metric_table(TABLE)


def derived_block() -> str:
    """The metrics made at the scrape."""
    return _metric_table(DERIVED)


def panels_block() -> str:
    """Every panel of the dashboard."""
    return "\n\n".join(
        f"**{title}**\n\n{table(('panel', 'what it shows'), [(panel.title, panel.about) for panel in panels])}"
        for title, panels in dashboard_rows().items()
    )


def alerts_block() -> str:
    """Every alert, with its way into the runbook."""
    rows = [
        (code(alert.name), alert.severity, code(alert.expression), alert.lasts, link(alert.heading))
        for alert in alerts()
    ]
    return table(("alert", "severity", "fires while", "for", "what to do"), rows)


def link(heading: str) -> str:
    """A heading of the runbook, to click on."""
    return f"[{heading}](runbook.md#{anchor(heading)})"


def signals_block() -> str:
    """What Prometheus records."""
    return table(("series", "expression"), [(code(r.name), code(r.expression)) for r in recordings()])


def budget_block() -> str:
    """Budget parameters and headers."""
    rows = []
    for name in dict.fromkeys(budget.HEADERS.values()):
        headers = [spelling.decode() for spelling, of in budget.HEADERS.items() if of == name]
        values, meaning = BUDGET[name]
        rows.append((code(name), ", ".join(code(header) for header in headers), values, meaning))
    return table(("parameter", "header", "values", "meaning"), rows)


def errors_block() -> str:
    """Every error of the core, its status, and its code in gRPC."""
    rows = [
        (str(status), GRPC_STATUS[error].name, code(error.__name__), (error.__doc__ or "").split("\n\n")[0])
        for error, status in sorted(STATUS.items(), key=lambda entry: entry[1])
    ]
    return table(("status", "gRPC", "error", "meaning"), rows)


def cli_block() -> str:
    """Every verb of `gearshift` with its arguments and options."""
    return "\n\n".join(_verb(path, command) for path, command in cli_commands())


def cli_commands() -> list[tuple[str, Any]]:
    """(words, command) of each verb, the nested ones too; the first is `gearshift` itself."""
    found: list[tuple[str, Any]] = []

    def visit(path: str, command: Any) -> None:
        found.append((path, command))
        for name, inner in getattr(command, "commands", {}).items():
            visit(f"{path} {name}", inner)

    visit("gearshift", typer.main.get_command(app))
    return found


PAGES: Mapping[str, Mapping[str, Block]] = {
    "README.md": {"budget": budget_block, "frontier": frontier_table},
    "docs/cli.md": {"cli": cli_block},
    "docs/compression.md": {"techniques": techniques_table},
    "docs/configuration.md": {"settings": settings_block},
    "docs/metrics.md": {"metrics": metrics_block, "derived": derived_block},
    "docs/monitoring.md": {"panels": panels_block, "alerts": alerts_block, "signals": signals_block},
    "docs/protocol.md": {
        "budget": budget_block,
        "clients": clients_block,
        "differences": differences_block,
        "errors": errors_block,
    },
}
"""Every generated region: page -> region -> what writes it."""


def rendered(page: str) -> str:
    """A page's text as it should be."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return filled(text, {name: block() for name, block in PAGES[page].items()})


def stale_pages() -> list[str]:
    """Pages whose tables no longer say what the code says."""
    return [page for page in PAGES if rendered(page) != (ROOT / page).read_text(encoding="utf-8")]


def main(argv: Sequence[str] | None = None) -> int:
    """Write, or check, the tables. Returns the exit code: 1 when a check found stale pages."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a page is stale")
    check = parser.parse_args(argv).check
    pages = stale_pages()
    for page in pages:
        if not check:
            (ROOT / page).write_text(rendered(page), encoding="utf-8")
        sys.stdout.write(f"{page}: {'stale' if check else 'written'}\n")
    return 1 if check and pages else 0


def _metric_table(specs: Sequence[Spec]) -> str:
    rows = [
        (code(spec.name), spec.kind, ", ".join(map(code, spec.labels)) or "none", spec.help, _buckets(spec))
        for spec in specs
    ]
    return table(("name", "kind", "labels", "meaning", "buckets"), rows)


def _buckets(spec: Spec) -> str:
    if not spec.buckets:
        return ""
    return f"{len(spec.buckets)}, from {spec.buckets[0]:g} to {spec.buckets[-1]:g}"


def _setting_row(section: str, key: str) -> tuple[str, ...]:
    field = _section(section).model_fields[key]
    if (section, key) in FACTORY_DEFAULTS:
        default = FACTORY_DEFAULTS[section, key]
    else:
        value = field.get_default(call_default_factory=True)
        default = default_in_words(value)
    variable = code(f"{ENV_PREFIX}{section}__{key}".upper())
    return code(key), variable, default, _unit(key, field.annotation), field.description or ""


def default_in_words(value: object) -> str:
    """A default as the table shows it: nothing, and an empty list or table, are `none`."""
    if value is None or value in ((), {}):
        return "none"
    return code(str(value).lower() if isinstance(value, bool) else value)


def _section(name: str) -> Any:
    return Settings.model_fields[name].annotation


def _unit(key: str, kind: Any) -> str:
    if kind is bool:
        return "`true`, `false`"
    if "Literal" in str(get_origin(kind)):
        return ", ".join(code(choice) for choice in get_args(kind))
    unit = next((unit for end, unit in UNITS.items() if key.endswith(end)), None)
    if unit is not None:
        return unit
    return "path" if "Path" in str(kind) else "text"


def _verb(path: str, command: Any) -> str:
    words = " ".join(_argument(p) for p in command.params if p.param_type_name == "argument")
    nested = getattr(command, "commands", None)
    rest = " COMMAND" if nested else f" [OPTIONS] {words}".rstrip()
    about = "\n".join(line.strip() for line in (command.help or "").strip().splitlines())
    parts = [f"## `{path}`", f"```\n{path}{rest}\n```", about]
    rows = [_parameter_row(parameter) for parameter in command.params]
    if rows:
        parts.append(table(("argument or option", "default", "meaning"), rows))
    return "\n\n".join(part for part in parts if part)


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _parameter_row(parameter: Any) -> tuple[str, ...]:
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
    else:
        name = ", ".join((*parameter.opts, *parameter.secondary_opts))
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    told = "" if default is None or default is False else code(default)
    if parameter.required:
        told = "required"
    about = parameter.help or ""
    if getattr(parameter, "envvar", None):
        about += f" Environment: {code(parameter.envvar)}."
    return code(name), told, about


if __name__ == "__main__":
    raise SystemExit(main())
