"""Writing files so that readers see the old one or the complete new one, never half of one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: str | Path, data: bytes | memoryview) -> Path:
    """Writes `data` to a temporary file beside `path` and renames it.

    Beside it, because a rename is atomic only within one file system.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: the file cannot be written, as on a full disk; what stood there before is untouched.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {path.parent} does not exist; create it, or choose another path."
        )
    temporary = path.parent / f".{path.name[:200]}.{secrets.token_hex(8)}.part"
    try:
        # As public as any file that the user makes; O_EXCL follows no link that somebody has put there.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)  # or a power cut after the rename could leave an empty file
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise OSError(
                error.errno, f"{path} could not be written ({reason}); what stood there before is untouched"
            ) from error
        raise
    return path
