"""Scenes: camera, street, light, weather and objects, drawn at random from a style."""

import math
import zlib
from dataclasses import dataclass

import numpy as np

from minicity.world.camera import Camera
from minicity.world.canvas import Color, Lighting
from minicity.world.frontage import add_frontage
from minicity.world.ground import GroundPaint, Lot
from minicity.world.sampling import Dice
from minicity.world.street import Street, sample_camera, sample_street
from minicity.world.style import Style
from minicity.world.things import Site, Thing
from minicity.world.traffic import add_furniture, add_people, add_riders, add_vehicles


@dataclass(frozen=True)
class Atmosphere:
    """Values drawn from the ranges of `Air`, `Sensor`, `Light` and `Look` of the style. Colors are RGB 0..255."""

    sky_top: Color
    sky_low: Color
    cloud: Color
    haze: Color
    visibility: float
    clouds: float
    rain: float
    wet: float
    flakes: float
    shadow: float
    texture: float
    blur: float
    noise: float
    vignette: float
    contrast: float
    gain: float
    saturation: float


@dataclass(frozen=True)
class Scene:
    """Complete description of a scene. `when` and `where` are words for its caption."""

    camera: Camera
    street: Street
    lighting: Lighting
    atmosphere: Atmosphere
    ground: GroundPaint
    lots: tuple[Lot, ...]
    things: tuple[Thing, ...]
    when: str
    where: str

    @property
    def open_ground(self) -> str:
        """Word for the ground of verges and parks: snow, grass or dirt."""
        if self.lighting.snow:
            return "snow"
        red, green, _ = self.ground.soil
        return "grass" if green >= red else "dirt"


def scene_rng(style: Style, seed: int, index: int) -> np.random.Generator:
    """Return the random generator of a scene. It depends on nothing but style, seed and index."""
    return np.random.default_rng((zlib.crc32(style.name.encode()), seed, index))


def sample_scene(style: Style, rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draw a scene.

    Args:
        style: style of the domain.
        rng: random generator of the scene.
        size: (H, W) of the image in pixels.
    """
    dice = Dice(rng)
    featured = frozenset(label for label, share in style.crowd.seen.items() if dice.chance(share))
    street = sample_street(style, dice, featured)
    camera = sample_camera(style, dice, size)
    site = Site(street, style, dice)
    lots = add_frontage(site, featured)
    add_vehicles(site, featured)
    add_riders(site, featured)
    add_people(site, featured)
    add_furniture(site, featured)
    return Scene(
        camera=camera,
        street=street,
        lighting=_lighting(style, dice),
        atmosphere=_atmosphere(style, dice, site),
        ground=_ground(site, dice),
        lots=tuple(lots),
        things=tuple(site.things),
        when=dice.pick(style.when),
        where=dice.pick(style.streets),
    )


def _lighting(style: Style, dice: Dice) -> Lighting:
    light = style.light
    elevation, azimuth = math.radians(dice.uniform(light.elevation)), dice.uniform((0, 2 * math.pi))
    sun = np.array(
        [math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)]
    )
    return Lighting(
        sun=sun,
        sun_color=dice.uniform(light.sun) * np.array(light.sun_tint),
        ambient=dice.uniform(light.ambient) * np.array(light.ambient_tint),
        beam=dice.uniform(light.beam),
        beam_reach=14.0,
        lights_on=light.lights_on,
        snow=dice.uniform(style.air.snow),
    )


def _atmosphere(style: Style, dice: Dice, site: Site) -> Atmosphere:
    air, sensor = style.air, style.sensor
    colors = {name: site.paint.color(name) for name in ("sky_top", "sky_low", "cloud", "haze")}
    return Atmosphere(
        **colors,
        visibility=dice.uniform(air.visibility),
        clouds=dice.uniform(air.clouds),
        rain=dice.uniform(air.rain),
        wet=dice.uniform(air.wet),
        flakes=dice.uniform(air.flakes),
        shadow=dice.uniform(style.light.shadow),
        texture=dice.uniform(style.look.texture),
        blur=dice.uniform(sensor.blur),
        noise=dice.uniform(sensor.noise),
        vignette=dice.uniform(sensor.vignette),
        contrast=dice.uniform(sensor.contrast),
        gain=dice.uniform(sensor.gain),
        saturation=dice.uniform(sensor.saturation),
    )


def _ground(site: Site, dice: Dice) -> GroundPaint:
    yellow = dice.chance(site.style.plan.yellow_lines)
    return GroundPaint(
        asphalt=site.paint.color("asphalt"),
        paving=site.paint.color("paving"),
        soil=site.paint.color("soil"),
        lines=(232, 232, 228),
        middle_line=(226, 186, 60) if yellow else (232, 232, 228),
        wear=dice.uniform((0.05, 0.5)),
    )
