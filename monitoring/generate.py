"""Writes every file that Prometheus and Grafana read: `python -m monitoring.generate`; `--check` tells which are stale.

`--objective` and `--runbook` make a set for another service level, or for a runbook people can open, into `--to`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from monitoring.dashboard import dashboard
from monitoring.rules import OBJECTIVE, RUNBOOK, rule_file

HERE = Path(__file__).resolve().parent
MADE = "# Made by python -m monitoring.generate. Change it there.\n"
SCRAPE_INTERVAL = "5s"
JOB = "gearshift"
RULES, DASHBOARD = "rules.yaml", "dashboards/gearshift.json"


def prometheus() -> dict[str, Any]:
    """Prometheus beside a gateway, as in compose.yaml."""
    return {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": "15s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": ["gateway:8002"]}]}],
    }


def datasource() -> dict[str, Any]:
    """Grafana's way to Prometheus."""
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Prometheus",
                "uid": "prometheus",
                "type": "prometheus",
                "access": "proxy",
                "url": "http://prometheus:9090",
                "isDefault": True,
                "jsonData": {"timeInterval": SCRAPE_INTERVAL},
            }
        ],
    }


def provider() -> dict[str, Any]:
    """Where Grafana finds dashboards."""
    return {
        "apiVersion": 1,
        "providers": [{"name": "gearshift", "type": "file", "options": {"path": "/etc/grafana/dashboards"}}],
    }


def files(objective: float = OBJECTIVE, runbook: str = RUNBOOK) -> Mapping[str, str]:
    """Every file by its path below `monitoring`."""
    return {
        RULES: _yaml(rule_file(objective, runbook)),
        DASHBOARD: json.dumps(dashboard(objective), indent=1) + "\n",
        "prometheus.yml": _yaml(prometheus()),
        "grafana/provisioning/datasources/prometheus.yaml": _yaml(datasource()),
        "grafana/provisioning/dashboards/gearshift.yaml": _yaml(provider()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.generate", description="Write the monitoring files.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    parser.add_argument("--objective", type=float, default=OBJECTIVE, help="share of rows to be answered in time")
    parser.add_argument("--runbook", default=RUNBOOK, help="address of the runbook, without a fragment")
    parser.add_argument("--to", type=Path, default=HERE, help="folder to write into")
    options = parser.parse_args(arguments)
    if not 0 < options.objective < 1:
        parser.error("--objective is above 0 and below 1")
    stale = []
    for name, text in files(options.objective, options.runbook).items():
        path = options.to / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    told = "stale" if options.check else "written"
    sys.stdout.write("".join(f"{told}: {name}\n" for name in stale))
    return 1 if options.check and stale else 0


def _yaml(document: Mapping[str, Any]) -> str:
    return f"{MADE}{yaml.safe_dump(dict(document), sort_keys=False, width=110, allow_unicode=True)}"


if __name__ == "__main__":
    raise SystemExit(main())
