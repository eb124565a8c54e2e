"""The command line: one file per command, and how a result or failure is reported to the user."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ghostnas._version import __version__
from ghostnas.cli import (
    completion,
    data,
    evaluate,
    export,
    latency,
    paper,
    pick,
    rehearsal,
    report,
    search,
    show,
    supernet,
    train,
)
from ghostnas.cli.options import Result, is_first_process, say
from ghostnas.errors import GhostnasError
from ghostnas.files import is_utf8
from ghostnas.progress import silent

COMMANDS = (
    *(search, pick, report, show, export, train, supernet, evaluate, latency, data, paper),
    completion,
)
INTERRUPTED = 130
BROKEN_PIPE = 141  # a shell's exit status for a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 if it succeeded, 2 with one line on stderr if it failed."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    for each in given:
        if not is_utf8(each):  # nor would a file that names it be, such as a run's settings
            parser.error(f"{each!a} is not UTF-8; rename the file or folder")
    parsed = parser.parse_args(_with_negative_amounts(given))
    parsed.say = silent if parsed.quiet else say
    parsed.whole_parser = _parser
    if line := rehearsal.cut(parsed):
        parsed.say(line)
    command: Callable[[argparse.Namespace], Result] = parsed.command
    try:
        if files := getattr(parsed, "blocks", []):
            from ghostnas.networks.blocks import load_file

            for file in files:
                load_file(file)
        result, to_text = command(parsed)
    except (GhostnasError, OSError) as error:
        print(f"ghostnas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ghostnas: stopped{parsed.resumed_by(parsed)}", file=sys.stderr)
        return INTERRUPTED
    if not is_first_process():
        return 0
    status = _print(json.dumps(result) if parsed.json else to_text(result))
    if status == 0 and not parsed.json and (next_step := parsed.then(result)):
        parsed.say(f"next: {next_step}")
    return status


def _print(text: str) -> int:
    """Print the result; fail quietly if the reader has gone, as `head` does."""
    try:
        # A data file's name may not be valid text.
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)
    except BrokenPipeError:
        # What is left in the buffer would fail again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


def _with_negative_amounts(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--budget -5ms`` as ``--budget=-5ms``: argparse takes -5ms for an option
    and would only report that the budget has no value.
    """
    joined: list[str] = []
    for each in arguments:
        if re.match(r"-\.?\d", each) and joined and re.fullmatch(r"--[a-z-]+", joined[-1]):
            joined[-1] += f"={each}"
        else:
            joined.append(each)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ghostnas",
        description="Finds the best GhostNet for one device and one budget.",
    )
    parser.add_argument("--version", action="version", version=f"ghostnas {__version__}")
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for each in COMMANDS:
        each.add(subcommands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage, which --help shows."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Takes OTHER behind an option too, which argparse does from Python 3.12 on."""
        found, rest = super().parse_known_args(args, namespace)
        if len(rest) == 1 and not rest[0].startswith("-") and getattr(found, "other", "") is None:
            found.other = rest.pop()
        return found, rest

    def error(self, message: str) -> Any:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)
