"""Command lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import tyro

Config = TypeVar("Config")


class CommandError(Exception):
    """A mistake of the user's; its message says what was given, what is wanted and how to mend it."""


def option(metavar: str, default: str | None = None) -> Any:
    """How ``--help`` shows an option: what its value is, and what its default is where the value does not say."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=None if default is None else f"(default: {default})")


def main(configuration: type[Config] | Mapping[str, type[Config]], run: Callable[[Config], None], program: str) -> None:
    """Parse the command line into ``configuration``, or into that of a subcommand, and run the command.

    A mistake of the user's ends in one message and exit code 2, an interrupt in exit code 130.
    """
    try:
        run(_parsed(configuration, program))
        sys.stdout.flush()
    except CommandError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; finished work is kept, the same command continues", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output, as "| head" does, wants no more of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        sys.exit(141)


def _parsed(configuration: type[Config] | Mapping[str, type[Config]], program: str) -> Any:
    if isinstance(configuration, Mapping):
        return tyro.extras.subcommand_cli_from_dict(dict(configuration), prog=program)
    return tyro.cli(configuration, prog=program)
