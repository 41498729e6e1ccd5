"""Experiments as commands: `mbu study` and `mbu sweep`."""
