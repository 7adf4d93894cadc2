"""The documentation, and what keeps its tables, answers and picture true: `python -m docs`."""
