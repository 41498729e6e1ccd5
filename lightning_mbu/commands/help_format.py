"""How `mbu ... --help` looks."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something: no None, no empty list, no True or False, and sizes as they are typed."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if isinstance(default, tuple) and len(default) == 2:
            return f"{action.help} (default: {default[0]}x{default[1]})"
        says_nothing = default is None or isinstance(default, bool) or default in ([], (), {})
        return action.help if says_nothing else super()._get_help_string(action)
