# mypy: allow-subclassing-any
"""The shape of a locust run: one user a process, each sending its part of the scenario, until all parts have ended.

Load does not come from the number of users, as it does where users wait for answers: the scenario says when what is
sent. `--users`, `--spawn-rate` and `--run-time` therefore have no effect.
"""

from locust import LoadTestShape


class ScenarioShape(LoadTestShape):
    """Starts the scenario, and stops the run when it is over. Asked once a second."""

    def tick(self) -> tuple[int, float] | None:
        """(users, users a second), or None to stop."""
        conductor = self.runner.environment.conductor
        users = conductor.running()
        return None if users == 0 else (users, float(users))
