"""The command lines of the zoo: what training, building and sampling a family take."""

import argparse
from collections.abc import Iterable
from pathlib import Path


def home(family: str) -> Path:
    """The folder of the committed family."""
    return Path("models/zoo/families") / family / "1"


def training(family: str, about: str, *, nets: Iterable[str], examples: str, threads: int) -> argparse.ArgumentParser:
    """Options `work`, `nets`, `epochs`, `seed` and `threads`; `examples` are lines of the help's end."""
    names = list(nets)
    parser = _parser(
        family,
        "train",
        about,
        "The state is kept after each epoch: run the same command again after a kill and it goes on.\n"
        f"Then `python -m models.zoo.{family}.build` exports, quantizes and measures what was trained.\n\n"
        f"examples:\n{examples}",
    )
    _add_work(parser, family, "where states and weights are kept")
    parser.add_argument(
        "--nets",
        nargs="+",
        choices=names,
        default=names,
        metavar="NET",
        help=f"which to train: {', '.join(names)} (default: all)",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the data (default: as planned)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and batches (default 0)")
    parser.add_argument("--threads", type=int, default=threads, metavar="N", help=f"cores to use (default {threads})")
    return parser


def building(family: str, about: str) -> argparse.ArgumentParser:
    """Options `work` and `out`."""
    parser = _parser(
        family,
        "build",
        about,
        f"Train first: python -m models.zoo.{family}.train\n"
        f"Then check:  python -m models.evaluate {home(family)} --dataset {family}",
    )
    _add_work(parser, family, "where training kept the weights")
    parser.add_argument(
        "--out",
        type=Path,
        default=home(family),
        metavar="DIR",
        help=f"folder of the family's version, replaced as a whole (default: {home(family)})",
    )
    return parser


def sampling(family: str, about: str, out: Path) -> argparse.ArgumentParser:
    """Options `family`, whose best variant chooses, and `out`."""
    parser = _parser(family, "samples", about)
    parser.add_argument("--family", type=Path, default=home(family), metavar="DIR", help=f"default: {home(family)}")
    parser.add_argument("--out", type=Path, default=out, metavar="PATH", help=f"default: {out}")
    return parser


def _parser(family: str, verb: str, about: str, epilog: str | None = None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m models.zoo.{family}.{verb}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=about,
        epilog=epilog,
    )


def _add_work(parser: argparse.ArgumentParser, family: str, what: str) -> None:
    folder = Path("~/.cache/gearshift/zoo") / family
    parser.add_argument("--work", type=Path, default=folder, metavar="DIR", help=f"{what} (default: {folder})")
