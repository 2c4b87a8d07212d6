"""Subcommands of `vitral` that other packages bring: entry points of the group `vitral.commands`."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from vitral.errors import UnsupportedError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "vitral.commands"
"""Group of the entry points. Each names a `Command`, under the name of the subcommand."""


@dataclass(frozen=True)
class Command:
    """One subcommand. Its module is imported for `vitral --help`: what is heavy belongs inside `run`.

    Attributes:
        summary: what it does, in one line without full stop.
        extra: the extra of vitral that brings what it needs.
        packages: import names of what that extra brings.
        add_arguments: adds its arguments to its parser.
        run: runs it and returns the exit code; `vitral` tells a VitralError or OSError in one line.
    """

    summary: str
    extra: str
    packages: tuple[str, ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds every subcommand that is installed, by name; one that cannot be loaded says why when it is run."""
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name in commands.choices:
            continue
        command = _load(entry)
        told = f"{command.summary[:1].upper()}{command.summary[1:]}."
        escaped = command.summary.replace("%", "%%")  # argparse formats the one, not the other
        parser = commands.add_parser(entry.name, help=escaped, description=told)
        command.add_arguments(parser)
        parser.set_defaults(run=partial(_run, command))


def _load(entry: EntryPoint) -> Command:
    try:
        command = entry.load()
    except (ImportError, AttributeError) as error:
        return _unusable(f"{entry.value} cannot be loaded: {error}")
    return command if isinstance(command, Command) else _unusable(f"{entry.value} is no Command")


def _unusable(reason: str) -> Command:
    def run(_: argparse.Namespace) -> int:
        raise UnsupportedError(reason)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)

    return Command(reason, "", (), add_arguments, run)


def _run(command: Command, args: argparse.Namespace) -> int:
    if absent := [name for name in command.packages if importlib.util.find_spec(name) is None]:
        raise UnsupportedError(f"this needs {' and '.join(absent)}: pip install 'vitral[{command.extra}]'")
    return command.run(args)
