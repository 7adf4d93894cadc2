"""Dashboards, rules and alerts, made from the metric table: `python -m monitoring.generate` writes the files."""
