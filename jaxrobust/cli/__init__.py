"""The command ``jaxrobust``: imports only what the command line needs."""

from __future__ import annotations

from jaxrobust.reporting import main

from ._config import Evaluate


def _run(command: Evaluate) -> None:
    from ._evaluate import evaluate

    evaluate(command)


def jaxrobust() -> None:
    """Entry point of the command."""
    main({"evaluate": Evaluate}, _run, "jaxrobust")
