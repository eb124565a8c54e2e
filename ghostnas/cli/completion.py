"""``ghostnas completion``."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path
from typing import Any

from ghostnas.cli.options import Result, command


def run(args: Namespace) -> Result:
    import shtab

    parser = args.whole_parser()
    _name_files(parser, shtab.FILE)
    script = shtab.complete(parser, args.shell)
    return {"shell": args.shell, "script": script}, lambda found: str(found["script"]).rstrip()


def _name_files(parser: argparse.ArgumentParser, completer: Any) -> None:
    """Have what is a path completed as one, in the commands below `parser` too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _name_files(each, completer)
        elif action.type is Path or action.dest == "arch":
            action.complete = completer  # type: ignore[attr-defined]


def add(subcommands: Any) -> None:
    parser = command(
        subcommands,
        "completion",
        run,
        "print a shell's completion script",
        example="ghostnas completion bash > ~/.local/share/bash-completion/completions/ghostnas",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), metavar="SHELL", help="bash, zsh")
