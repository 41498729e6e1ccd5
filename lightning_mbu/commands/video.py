"""Videos, frame by frame: read, and written again with the masks drawn in. Needs `lightning-mbu[video]` (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def _av() -> Any:
    try:
        import av  # pyright: ignore[reportMissingImports] - of the extra `video`
    except ImportError:
        raise ImportError(
            "PyAV, which reads videos, is not installed; pip install 'lightning-mbu[video]' brings it. Or take the video "
            "apart first: ffmpeg -i film.mp4 frames/%06d.png"
        ) from None
    return av


class Video:
    """A video file, read one frame at a time.

    Attributes:
        frames: how many there are, or None where the file does not say.
        rate: frames per second, as a fraction.
    """

    def __init__(self, path: Path, channels: int):
        """
        Args:
            channels: of the arrays that it yields, 1 or 3.

        Raises:
            ImportError: PyAV is not installed.
            ValueError: another number of channels, or a file without a readable video.
        """
        if channels not in (1, 3):
            raise ValueError(
                f"the network takes {channels} channels; videos have 1 or 3. Use it from Python."
            )
        self.path, self.format = path, {1: "gray", 3: "rgb24"}[channels]
        with self._open() as (_, stream):
            self.frames: int | None = stream.frames or None
            self.rate = stream.average_rate or 25

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        av = _av()
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ValueError(f"{self.path} has no video in it, sound alone.")
                yield container, container.streams.video[0]
        except av.error.FFmpegError as error:
            raise ValueError(f"{self.path} is damaged or no video: {error}") from error

    def __iter__(self) -> Iterator[np.ndarray]:
        """uint8 `[H, W, channels]`, upright as the file asks; a view of one frame at a time is in memory."""
        with self._open() as (container, _):
            for frame in container.decode(video=0):
                array = frame.to_ndarray(format=self.format)
                # Degrees counterclockwise, as np.rot90 turns.
                array = np.rot90(array, frame.rotation // 90)
                yield np.ascontiguousarray(array.reshape(*array.shape[:2], -1))


class VideoWriter:
    """Writes frames uint8 `[H, W, 3]` as H.264; the file appears under its name only once it is complete."""

    def __init__(self, path: Path, rate: Any):
        self.path, self.rate = path, rate
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        self._container: Any = None

    def add(self, frame: np.ndarray) -> None:
        """Appends a frame; an odd last row or column is left out, since H.264 stores colours for pairs of pixels."""
        av = _av()
        height, width = (n - n % 2 for n in frame.shape[:2])
        if self._container is None:
            self._container = av.open(str(self._part), "w")
            self._stream = self._container.add_stream("libx264", rate=self.rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def close(self, complete: bool) -> None:
        """Finishes the file, or removes what there is of it."""
        if self._container is None:
            return
        if complete:
            self._container.mux(self._stream.encode())
        self._container.close()
        if complete:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)
