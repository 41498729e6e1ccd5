"""--print-completion: what a shell needs to complete `mbu`, its commands and their options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")
_FILES = ("model", "trained", "packed", "images", "data", "root", "output", "recipe", "results")


class PrintCompletion(argparse.Action):
    """Prints the completion of the parser that it belongs to, and ends."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        try:
            import shtab  # pyright: ignore[reportMissingImports] - of the extra `completion`
        except ImportError:
            parser.error("shtab is not installed; pip install 'lightning-mbu[completion]' brings it")
        for actions in _parsers(parser):
            for action in actions:
                if action.choices is None and (action.type is Path or action.dest in _FILES):
                    action.complete = shtab.FILE
        print(shtab.complete(parser, shell=values))
        parser.exit(0)


def _parsers(parser: argparse.ArgumentParser) -> list[list[Any]]:
    """The options of a parser and of all parsers below it."""
    found = [list(parser._actions)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += _parsers(child)
    return found
