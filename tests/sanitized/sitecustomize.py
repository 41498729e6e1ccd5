"""In front of every Python process of a sanitized run: the library that MBU_SANITIZED names takes the installed one's place."""

import importlib.util
import os
import sys


class _Sanitized:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "mbu_ops._C":
            return importlib.util.spec_from_file_location(name, os.environ["MBU_SANITIZED"])
        return None


sys.meta_path.insert(0, _Sanitized)
