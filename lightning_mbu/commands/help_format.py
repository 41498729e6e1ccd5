"""How `mbu ... --help` looks."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something: neither None, nor that a switch is off, nor an empty list."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        says_nothing = default is None or default is False or default in ([], (), {})
        return action.help if says_nothing else super()._get_help_string(action)
