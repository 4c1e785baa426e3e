"""The command line of a study."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

from ._run import StudyError

Config = TypeVar("Config")


def main(configuration: type[Config], run: Callable[[Config], None], program: str) -> None:
    """Parse the command line into ``configuration`` and run the study.

    A mistake of the user's ends in one message and exit code 2, an interrupt in exit code 130.
    """
    parsed = tyro.cli(configuration, prog=program)
    try:
        run(parsed)
    except StudyError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; finished work is kept, the same command continues", file=sys.stderr)
        sys.exit(130)
