"""The command ``jaxrobust``: imports only what the command line needs."""

from __future__ import annotations

from jaxrobust.reporting import main

from ._config import Certify, Evaluate
from ._train_config import Train


def _run(command: Certify | Evaluate | Train) -> None:
    if isinstance(command, Train):
        from ._train import train

        train(command)
    elif isinstance(command, Certify):
        from ._certify import certify

        certify(command)
    else:
        from ._evaluate import evaluate

        evaluate(command)


def jaxrobust() -> None:
    """Entry point of the command."""
    main({"train": Train, "evaluate": Evaluate, "certify": Certify}, _run, "jaxrobust")
