"""Sky, weather and sensor: texture, haze, reflections, rain, snow, glow, exposure."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from minicity.world.canvas import Canvas, Color
from minicity.world.classes import Label
from minicity.world.sampling import Dice
from minicity.world.scene import Atmosphere
from minicity.world.textures import Field, look_up, snow_window, spread, window

# Strength of fine, middle and coarse noise on the objects of a class. The ground has noise in perspective instead.
_GRAIN: dict[Label, tuple[float, float, float]] = {
    Label.BUILDING: (0.030, 0.020, 0.035),
    Label.WALL: (0.060, 0.060, 0.050),
    Label.FENCE: (0.040, 0.0, 0.0),
    Label.VEGETATION: (0.14, 0.15, 0.05),
    Label.PERSON: (0.03, 0.05, 0.0),
    Label.RIDER: (0.03, 0.05, 0.0),
    Label.TRUCK: (0.010, 0.012, 0.012),
}


def paint_sky(canvas: Canvas, air: Atmosphere, dice: Dice) -> None:
    """Paint a gradient with clouds over everything above the horizon."""
    height, width = canvas.camera.size
    tilt = width * abs(math.tan(canvas.camera.roll)) / 2
    bottom = int(np.clip(canvas.camera.horizon + tilt + 4, 1, height))
    climb = np.clip((canvas.camera.horizon - np.arange(bottom)) / (0.5 * height), 0, 1).astype(np.float32)[
        :, None, None
    ]
    sky = _rgb(air.sky_low) + climb**0.7 * (_rgb(air.sky_top) - _rgb(air.sky_low))
    if air.clouds > 0.02:
        field = window("cloud", (bottom, width), dice)
        cover = np.clip((field + (2.6 * air.clouds - 1.9)) * 0.7, 0, 1) * (0.35 + 0.65 * climb[..., 0])
        # Thick clouds are a little darker.
        sky = sky + spread(cover * (1.0 - 0.06 * np.maximum(field, 0.0))) * (_rgb(air.cloud) - sky)
    canvas.pixels[:bottom, :, :3] = np.minimum(sky, 255.0).astype(np.uint8)


def expose(
    canvas: Canvas, label: npt.NDArray[np.uint8], depth: Field, air: Atmosphere, dice: Dice
) -> npt.NDArray[np.uint8]:
    """Apply texture, weather and sensor to the painted scene.

    Args:
        canvas: canvas with all objects.
        label: (H, W) uint8 train ids.
        depth: (H, W) float32 meters; inf in the sky.
        air: weather and sensor.
        dice: chooses the position of noise.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = canvas.pixels[:, :, :3] * spread(_texture(label, air.texture, dice))
    if air.wet:
        image = _reflect(image, label, canvas.camera.horizon, air.wet)
    image = _haze(image, depth, air)
    if canvas.lighting.lights_on:
        image = _glow(image)
    if air.rain:
        image = _rain(image, air.rain, dice)
    if air.flakes:
        image = _snowfall(image, air.flakes, dice)
    return _sensor(image, air, dice)


def _texture(label: npt.NDArray[np.uint8], strength: float, dice: Dice) -> Field:
    total = np.ones(label.shape, dtype=np.float32)
    for number, kind in enumerate(("fine", "mid", "coarse")):
        strengths = [strength * _GRAIN[name][number] if name in _GRAIN else 0.0 for name in Label]
        total += look_up(label, strengths) * window(kind, label.shape, dice)
    return np.maximum(total, np.float32(0.25))


def _haze(image: Field, depth: Field, air: Atmosphere) -> Field:
    """Apply Koschmieder's law: a share exp(-beta d) of the contrast remains at d meters, 5 % at the visibility."""
    share: Field = np.float32(1.0) - np.exp(np.minimum(depth, np.float32(400.0)) * np.float32(-3.0 / air.visibility))
    # Haze is part of the painted sky, but thick fog covers the sky as well.
    share[np.isinf(depth)] = np.clip(1.4 - air.visibility / 250.0, 0.0, 0.95)
    image *= spread(np.float32(1.0) - share)
    image += cv2.merge([share * np.float32(channel) for channel in air.haze])
    return image


def _reflect(image: Field, label: npt.NDArray[np.uint8], horizon: float, wet: float) -> Field:
    """Mirror the image above the horizon in road and sidewalk, blurred downwards as on a rough wet surface."""
    height = image.shape[0]
    top = int(np.clip(round(horizon), 1, height - 1))
    below = height - top
    source = np.clip(top - 1 - np.arange(below), 0, None)
    mirrored = cv2.blur(image[source], (3, 25))
    share = look_up(label[top:], [0.75 * wet if name in (Label.ROAD, Label.SIDEWALK) else 0.0 for name in Label])
    image[top:] += spread(share) * (mirrored - image[top:])
    return image


def _glow(image: Field) -> Field:
    """Add a glow around bright pixels."""
    height, width = image.shape[:2]
    small = cv2.resize(
        np.maximum(image - 165.0, 0.0), (max(width // 4, 1), max(height // 4, 1)), interpolation=cv2.INTER_AREA
    )
    wide = cv2.GaussianBlur(small, (0, 0), 4.0) * 1.6 + cv2.GaussianBlur(small, (0, 0), 1.2) * 0.8
    return image + cv2.resize(wide, (width, height))


def _rain(image: Field, amount: float, dice: Dice) -> Field:
    streaks = window("streak", image.shape[:2], dice)
    share = np.clip(streaks - np.float32(1.7 - 0.4 * amount), 0.0, 1.2) * np.float32(0.35 * amount)
    return image + spread(share) * (np.float32(215.0) - image)


def _snowfall(image: Field, amount: float, dice: Dice) -> Field:
    scale = image.shape[0] / 256
    for size in (1.2, 2.4, 4.5):
        share = snow_window(round(size * scale, 1), image.shape[:2], dice) * np.float32(0.85 * amount)
        image = image + spread(share) * (np.float32(246.0) - image)
    return image


def _sensor(image: Field, air: Atmosphere, dice: Dice) -> npt.NDArray[np.uint8]:
    """Apply saturation, contrast, gain, vignette, blur and noise; return (H, W, 3) uint8."""
    height, width = image.shape[:2]
    # One matrix for saturation and contrast, one offset for contrast (around middle grey) and gain.
    matrix = _rgb((0.299, 0.587, 0.114)) * (1 - air.saturation) + np.eye(3, dtype=np.float32) * air.saturation
    offset = 115.0 * (air.gain - air.contrast)
    mixer = np.column_stack([matrix * air.contrast, np.full(3, offset)]).astype(np.float32)
    exposed: Field = np.asarray(cv2.transform(image, mixer), dtype=np.float32)
    if air.vignette:
        rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
        columns = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
        exposed *= spread(np.float32(1.0) - np.float32(air.vignette / 2) * (rows + columns))
    if air.blur > 0.3:
        exposed = np.asarray(cv2.GaussianBlur(exposed, (0, 0), air.blur * height / 256), dtype=np.float32)
    if air.noise:
        grain = cv2.merge([window("grain", (height, width), dice) for _ in range(3)])
        exposed += np.float32(air.noise) * grain
    return np.clip(exposed, 0, 255, out=exposed).astype(np.uint8)


def _rgb(color: Color) -> Field:
    return np.array(color, dtype=np.float32)
