"""The parts of the simulator: what is served, the workers it runs on, what is kept of a run."""
