"""Generated microscope images of cell nuclei, so that a demo can train without a download.

Two looks, drawn from the same geometry:

- **fluorescence** (about 70 %): bright nuclei on dark, grey. Light adds up, so overlapping nuclei are
  brighter there.
- **stained tissue** (about 30 %): purple nuclei on pink. Dye absorbs (Beer-Lambert), so colours are computed
  as optical density, `rgb = light * exp(-density)`, and overlapping nuclei are darker there.

What makes the images hard is what makes real ones hard: nuclei that touch and overlap, dim ones beside bright
ones, blurred edges, uneven light, noise, and things that are not nuclei (haze out of focus, debris, red blood
cells). Image `k` of a seed is the same in every process, however many images are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

STAINED_SHARE = 0.3
REFERENCE_SIZE = 128  # lengths below are pixels of a 128 x 128 image and scale with the size asked for
MIN_SIZE = 32  # below this a nucleus of the smallest kind is a pixel or two, and nothing is left to learn

# Optical density of the two dyes of the common stain (haematoxylin, eosin) for red, green, blue, unit
# vectors: the reference slide of Macenko et al. (2009), "A method for normalizing histology slides for
# quantitative analysis".
HAEMATOXYLIN = np.array([0.5626, 0.7201, 0.4062])
EOSIN = np.array([0.2159, 0.8012, 0.5581])


@dataclass(frozen=True)
class Shape:
    """Outline of one nucleus, a smooth star-shaped curve; lengths in pixels, angles in radians."""

    row: float
    column: float
    radius: float
    stretch: float
    angle: float
    wobble: tuple[tuple[float, float], ...]  # (amplitude, phase) of harmonics 2, 3, 4 ... of the outline

    @property
    def reach(self) -> float:
        """The largest distance of the outline from the centre."""
        return self.radius * self.stretch * (1 + sum(amplitude for amplitude, _ in self.wobble))


@dataclass(frozen=True)
class Scene:
    """What all nuclei of one image share, as on one slide."""

    radius: float  # typical radius, pixels
    stretch: float  # typical length over width
    cover: float  # share of the image that nuclei would cover if none overlapped
    clumping: float  # probability that a nucleus is placed against an earlier one


def generate_cells(count: int, size: int = 128, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` images and their masks.

    Args:
        count: number of images, at least 1.
        size: height and width in pixels, at least 32.
        seed: any non-negative integer; equal seeds give equal images.

    Returns:
        Images, uint8 [count, size, size, 3], and masks, bool [count, size, size], True on nuclei.

    Raises:
        ValueError: `count`, `size` or `seed` is outside its range.
    """
    if count < 1:
        raise ValueError(f"count={count} images were asked for. At least 1 is needed; the demo uses 240.")
    if seed < 0:
        raise ValueError(f"seed={seed} is negative. Seeds are integers from 0 upwards.")
    # One stream per image: adding images at the end changes none of those before.
    drawn = [generate_cell(np.random.default_rng([seed, index]), size) for index in range(count)]
    return np.stack([image for image, _ in drawn]), np.stack([mask for _, mask in drawn])


def generate_cell(rng: np.random.Generator, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image and its mask from `rng`.

    Returns:
        Image, uint8 [size, size, 3], and mask, bool [size, size], True on nuclei.

    Raises:
        ValueError: `size` is below 32 pixels.
    """
    if size < MIN_SIZE:
        raise ValueError(
            f"size={size} is too small to show nuclei. Use {MIN_SIZE} or more; the demo uses 128."
        )
    stained = rng.random() < STAINED_SHARE
    scene = _scene(rng, size / REFERENCE_SIZE, stained)
    shapes = _place(rng, scene, size)
    return _stained(rng, shapes, scene, size) if stained else _fluorescence(rng, shapes, scene, size)


def _scene(rng: np.random.Generator, scale: float, stained: bool) -> Scene:
    # Three magnifications, as in collections that mix microscopes: small, usual and large nuclei.
    low, high = ((4.5, 7.0), (7.0, 10.0), (10.0, 15.0))[rng.choice(3, p=[0.35, 0.45, 0.2])]
    cover = rng.uniform(0.18, 0.42) if stained else rng.uniform(0.06, 0.36)
    return Scene(scale * rng.uniform(low, high), rng.uniform(1.05, 1.5), cover, rng.uniform(0.15, 0.6))


def _place(rng: np.random.Generator, scene: Scene, size: int) -> list[Shape]:
    """Nuclei at random and in clumps; centres may lie a little outside, so that the border cuts some."""
    wanted = scene.cover * size * size / (np.pi * scene.radius**2)
    shapes: list[Shape] = []
    for _ in range(max(2, round(wanted))):
        radius = scene.radius * float(np.exp(rng.normal(0.0, 0.18)))
        for _attempt in range(8):
            if shapes and rng.random() < scene.clumping:
                neighbour = shapes[rng.integers(len(shapes))]
                turn = rng.uniform(0, 2 * np.pi)
                # 0.75 of the sum of radii overlaps; 1.1 leaves the thin gap that networks tend to fill.
                apart = (neighbour.radius + radius) * rng.uniform(0.75, 1.1)
                row, column = neighbour.row + apart * np.sin(turn), neighbour.column + apart * np.cos(turn)
            else:
                row, column = rng.uniform(-0.3 * radius, size + 0.3 * radius, 2)
            if all(math.hypot(row - s.row, column - s.column) > 0.7 * (radius + s.radius) for s in shapes):
                break
        else:
            continue  # no room after eight tries: the image stays a little emptier than wanted
        wobble = tuple((abs(rng.normal(0, 0.14 / k)), rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
        stretch = float(np.clip(rng.normal(scene.stretch, 0.15), 1.0, 2.0)) ** 0.5
        shapes.append(Shape(float(row), float(column), radius, stretch, rng.uniform(0, np.pi), wobble))
    return shapes


def _depth(shape: Shape, size: int, margin: float) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Distance to the outline in pixels, positive inside, on the window of the shape; None off the image."""
    reach = shape.reach + margin
    top, left = max(0, int(shape.row - reach)), max(0, int(shape.column - reach))
    bottom, right = min(size, int(shape.row + reach) + 2), min(size, int(shape.column + reach) + 2)
    if top >= bottom or left >= right:
        return None
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(shape.row)
    x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(shape.column)
    cos, sin = np.float32(np.cos(shape.angle)), np.float32(np.sin(shape.angle))
    # An ellipse of equal area, axes radius * stretch and radius / stretch, turned by the angle.
    along, across = (x * cos + y * sin) / shape.stretch, (y * cos - x * sin) * shape.stretch
    distance, turn = np.hypot(along, across), np.arctan2(across, along)
    outline = np.full_like(distance, shape.radius)
    for harmonic, (amplitude, phase) in enumerate(shape.wobble, start=2):
        outline += np.float32(shape.radius * amplitude) * np.cos(harmonic * turn + np.float32(phase))
    return (slice(top, bottom), slice(left, right)), outline - distance


def _noise(rng: np.random.Generator, size: int, sigma: float | tuple[float, float]) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1, float32 [size, size]; `sigma` is its grain in pixels."""
    # A coarse grain is drawn on a coarse grid: blurring over tens of pixels would be most of the generator's
    # time.
    step = max(1, int(np.min(sigma) / 4))
    side = -(-size // step)
    white = rng.standard_normal((side, side), np.float32)
    field = np.asarray(ndimage.gaussian_filter(white, np.asarray(sigma) / step, mode="wrap", truncate=3))
    if step > 1:
        fine = np.asarray(ndimage.zoom(field, step, order=1, mode="grid-wrap", grid_mode=True))
        field = fine[:size, :size]
    return (field - field.mean()) / max(float(field.std()), 1e-6)


def _light(rng: np.random.Generator, size: int, strength: float) -> np.ndarray:
    """Uneven illumination: a slope and a vignette around 1, float32 [size, size]."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    turn, (row, column) = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5, 2)
    slope = np.cos(turn) * axis[:, None] + np.sin(turn) * axis[None, :]
    vignette = (axis[:, None] - row) ** 2 + (axis[None, :] - column) ** 2
    return np.clip(1 + strength * (0.6 * slope - 0.35 * vignette), 0.15, None).astype(np.float32)


def _blobs(shapes: list[Shape], size: int, edge: float, strength: np.ndarray) -> np.ndarray:
    """Sum of soft discs, one per shape, `edge` pixels wide at the border; float32 [size, size]."""
    field = np.zeros((size, size), np.float32)
    for shape, weight in zip(shapes, strength, strict=True):
        placed = _depth(shape, size, edge)
        if placed is not None:
            window, depth = placed
            field[window] += np.float32(weight) * np.clip(depth / np.float32(edge) + np.float32(0.5), 0, 1)
    return field


def _strangers(rng: np.random.Generator, size: int, count: int, low: float, high: float) -> list[Shape]:
    """Smooth round shapes that are not nuclei and not in the mask, radius between `low` and `high` pixels."""
    shapes = []
    for _ in range(count):
        row, column = rng.uniform(0, size, 2).tolist()
        shapes.append(
            Shape(row, column, rng.uniform(low, high), rng.uniform(1, 1.2), rng.uniform(0, np.pi), ())
        )
    return shapes


def _fluorescence(
    rng: np.random.Generator, shapes: list[Shape], scene: Scene, size: int
) -> tuple[np.ndarray, np.ndarray]:
    scale = size / REFERENCE_SIZE
    mask = np.zeros((size, size), bool)
    signal = np.zeros((size, size), np.float32)
    grain = 1 + rng.uniform(0.08, 0.3) * _noise(rng, size, max(0.7, 0.16 * scene.radius))
    spread = rng.uniform(0.25, 0.85)  # how unlike each other the nuclei are: from one dye to a mixed culture
    edge = scale * rng.uniform(0.8, 2.4)
    for shape in shapes:
        placed = _depth(shape, size, edge)
        if placed is None:
            continue
        window, depth = placed
        inside = np.clip(depth / np.float32(edge) + np.float32(0.5), 0, 1)
        # A nucleus is a flattened ball: thicker, so brighter, in the middle.
        dome = np.sqrt(np.clip(depth / np.float32(shape.radius), 0, 1))
        brightness = np.float32(np.exp(rng.normal(0, spread)))
        # The floor keeps nuclei that hide behind a brighter neighbour from adding their full light twice.
        layer = brightness * inside * (0.62 + 0.38 * dome) * grain[window]
        signal[window] = np.maximum(signal[window], layer) + 0.35 * np.minimum(signal[window], layer)
        mask[window] |= depth > 0
    haze = _strangers(rng, size, int(rng.integers(0, 8)), 0.8 * scene.radius, 1.6 * scene.radius)
    signal += ndimage.gaussian_filter(
        _blobs(haze, size, 1.0, rng.uniform(0.15, 0.7, len(haze))), 0.45 * scene.radius, truncate=3
    )
    specks = _strangers(rng, size, int(rng.integers(0, 7)), 0.6 * scale, 1.5 * scale)
    signal += _blobs(specks, size, 1.0, rng.uniform(0.3, 1.3, len(specks)))
    # Light scattered by bright nuclei, and dye that is not bound: the background is never flat.
    glow = ndimage.gaussian_filter(signal, 6 * scale, truncate=3)
    floor = rng.uniform(0.02, 0.16) * np.clip(1 + 0.5 * _noise(rng, size, 14 * scale), 0.1, None)
    signal = ndimage.gaussian_filter(signal, scale * rng.uniform(0.3, 1.0))
    signal += rng.uniform(0.05, 0.3) * glow + floor
    signal *= _light(rng, size, rng.uniform(0.1, 0.6))
    # Photons: the variance grows with the light, fewer make a grainier image. Then the camera's own noise.
    photons = float(np.exp(rng.uniform(np.log(7), np.log(150))))
    signal = rng.poisson(signal * photons).astype(np.float32) / photons
    signal += rng.uniform(0.005, 0.03) * rng.standard_normal((size, size), np.float32)
    exposure = rng.uniform(45, 150) / max(float(np.percentile(signal[mask], 80)) if mask.any() else 1.0, 0.1)
    grey = np.clip(signal * exposure + 3, 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2), mask


def _stained(
    rng: np.random.Generator, shapes: list[Shape], scene: Scene, size: int
) -> tuple[np.ndarray, np.ndarray]:
    scale = size / REFERENCE_SIZE
    mask = np.zeros((size, size), bool)
    purple = np.zeros((size, size), np.float32)
    grain = _noise(rng, size, max(0.7, 0.14 * scene.radius))
    edge = scale * rng.uniform(0.9, 2.0)
    for shape in shapes:
        placed = _depth(shape, size, edge)
        if placed is None:
            continue
        window, depth = placed
        inside = np.clip(depth / np.float32(edge) + np.float32(0.5), 0, 1)
        # Chromatin gathers at the membrane: many nuclei are pale with a dark rim, others dark throughout.
        rim = np.exp(-np.square((depth - np.float32(1.2 * scale)) / np.float32(1.5 * scale)))
        open_chromatin = rng.random() < 0.5
        dye = np.float32(np.exp(rng.normal(-0.9 if open_chromatin else -0.25, 0.3)))
        layer = inside * np.clip(
            dye * (1 + 0.25 * grain[window]) + (0.25 if open_chromatin else 0.08) * rim, 0.1, None
        )
        purple[window] = np.maximum(purple[window], layer) + 0.4 * np.minimum(purple[window], layer)
        mask[window] |= depth > 0
    # Nuclei above or below the focal plane leave a purple haze that is not in the mask.
    haze = _strangers(rng, size, int(rng.integers(1, 6)), 0.6 * scene.radius, 1.3 * scene.radius)
    purple += ndimage.gaussian_filter(
        _blobs(haze, size, 1.0, rng.uniform(0.2, 0.65, len(haze))), 0.3 * scene.radius, truncate=3
    )
    purple = ndimage.gaussian_filter(purple, scale * rng.uniform(0.3, 0.8))
    # Fibres: noise smeared along one direction, bent by a slow field so that the strands are not parallel.
    axis = np.arange(size, dtype=np.float32)
    bend = 7 * scale * _noise(rng, size, 16 * scale)
    turn = rng.uniform(0, np.pi)
    rows = np.cos(turn) * axis[:, None] - np.sin(turn) * axis[None, :] + bend
    columns = np.sin(turn) * axis[:, None] + np.cos(turn) * axis[None, :] + bend
    strands = _noise(rng, size, (1.3 * scale, 9 * scale))
    strands = ndimage.map_coordinates(strands, [rows, columns], order=1, mode="grid-wrap")
    density = rng.uniform(0.2, 0.55)
    pink = density * np.clip(1 + 0.3 * strands + 0.35 * _noise(rng, size, 7 * scale), 0.05, None)
    # Gaps in the tissue are nearly white, with a soft border; some images have none.
    gaps = np.clip(2.5 * (_noise(rng, size, 11 * scale) - rng.uniform(0.7, 2.5)), 0, 1)
    pink *= 1 - 0.85 * gaps
    erythrocytes = _strangers(rng, size, int(rng.integers(0, 6)), 3.5 * scale, 5.5 * scale)
    pink += _blobs(erythrocytes, size, 1.5 * scale, rng.uniform(0.3, 0.7, len(erythrocytes)))
    dye = rng.uniform(0.75, 1.15)
    # Cytoplasm binds some of the purple dye.
    background = 0.1 * density * np.clip(1 + _noise(rng, size, 2.5 * scale), 0, None)
    # Slides differ in hue from laboratory to laboratory.
    blue, red = HAEMATOXYLIN * rng.uniform(0.9, 1.1, 3), EOSIN * rng.uniform(0.85, 1.15, 3)
    absorbed = (dye * purple + background)[:, :, None] * blue.astype(np.float32) * 1.35
    absorbed += (pink * (1 - 0.5 * np.clip(purple, 0, 1)))[:, :, None] * red.astype(np.float32)
    light = rng.uniform(225, 250) * _light(rng, size, rng.uniform(0.02, 0.18))[:, :, None]
    rgb = light * np.exp(-absorbed) + rng.uniform(1.5, 5) * rng.standard_normal((size, size, 3), np.float32)
    return np.clip(rgb, 0, 255).astype(np.uint8), mask
