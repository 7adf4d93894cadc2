"""The parts of the comparative benchmark: servers, load, process accounting, results."""
