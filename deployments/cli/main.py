"""The `gearshift` command: one verb a file."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from deployments.cli import calibrate, cascade, compress, doctor, infer, loadtest, models, serve, simulate
from models.manifest import ManifestError
from models.repository import RepositoryError
from serving.config import ConfigError

app = typer.Typer(
    name="gearshift",
    help="Serve families of compressed models: the most accurate answer each request's budget allows.",
    epilog="Start with [bold]gearshift serve[/bold], then, in another terminal, "
    "[bold]gearshift infer fashion IMAGE --budget 10ms[/bold].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(serve.serve)
app.command()(infer.infer)
app.add_typer(models.app, name="models")
app.command()(compress.compress)
app.command()(cascade.cascade)
app.command()(calibrate.calibrate)
app.command()(doctor.doctor)
app.command()(simulate.simulate)
app.command()(loadtest.loadtest)


def _tell_version(wanted: bool) -> None:
    """Runs while options are read: `--version` goes without a verb."""
    if wanted:
        typer.echo(f"gearshift {version('gearshift')}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 it failed, 2 it was asked wrongly."""
    try:
        app()
    except (ConfigError, ManifestError, RepositoryError) as error:
        typer.echo(f"gearshift: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
