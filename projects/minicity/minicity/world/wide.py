"""Wide styles, on which the miniatures are trained: many lights, kinds of weather and cameras.

Each style combines one of `LIGHTS`, one of `AIRS` and one of `SENSORS` with the same street plan. Together they cover
much more than the source domain, but exclude the validation domains: no sensor equals one of theirs, and the property
that makes a domain (darkness, rain, fog, snow) never reaches its strength there. A test checks this.
"""

import itertools
from dataclasses import dataclass, replace

from minicity.world.paints import ANY
from minicity.world.sampling import Range
from minicity.world.style import Air, Crowd, Light, Look, Optics, Paints, Plan, Sensor, Style
from minicity.world.styles import STYLES

_SOURCE = STYLES["minicity_sim"]


@dataclass(frozen=True)
class Sky:
    """Light with the colors of its sky, and words for it."""

    light: Light
    paints: dict[str, Paints]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Weather:
    """Weather with the color of its haze, and words for it."""

    air: Air
    words: tuple[str, ...]
    haze: Paints = (((200, 225), (0.02, 0.12), (0.70, 0.92)),)


def _light(elevation: Range, sun: Range, ambient: Range, **tints: tuple[float, float, float]) -> Light:
    white = (1.0, 1.0, 1.0)
    return Light(
        elevation=elevation,
        sun=sun,
        sun_tint=tints.get("sun_tint", white),
        ambient=ambient,
        ambient_tint=tints.get("ambient_tint", white),
        shadow=(0.2, 0.55),
    )


def _lit(light: Light, beam: Range) -> Light:
    return replace(light, beam=beam, lights_on=True)


_BLUE: dict[str, Paints] = {
    "sky_top": (((190, 235), (0.25, 0.75), (0.45, 0.95)),),
    "sky_low": (((185, 225), (0.05, 0.35), (0.70, 1.0)),),
}
_GREY: dict[str, Paints] = {
    "sky_top": ((ANY, (0.0, 0.10), (0.35, 0.95)),),
    "sky_low": ((ANY, (0.0, 0.08), (0.55, 1.0)),),
}
_RED: dict[str, Paints] = {
    "sky_top": (((210, 300), (0.15, 0.50), (0.30, 0.65)),),
    "sky_low": (((5, 45), (0.25, 0.70), (0.60, 0.95)),),
    "cloud": (((340, 400), (0.10, 0.45), (0.45, 0.85)),),
}
_DEEP: dict[str, Paints] = {
    "sky_top": (((205, 260), (0.30, 0.65), (0.16, 0.35)),),
    "sky_low": (((195, 260), (0.15, 0.45), (0.30, 0.55)), ((10, 40), (0.15, 0.50), (0.30, 0.55))),
    "cloud": (((200, 260), (0.05, 0.30), (0.20, 0.45)),),
}

LIGHTS: dict[str, Sky] = {
    "noon": Sky(_light((45, 85), (0.55, 0.85), (0.45, 0.66)), _BLUE, ("at noon", "in the sunshine")),
    "morning": Sky(
        _light((6, 17), (0.52, 0.85), (0.46, 0.66), sun_tint=(1.12, 0.95, 0.72)), _BLUE, ("early in the morning",)
    ),
    "sunset": Sky(
        _lit(
            _light((4, 14), (0.30, 0.70), (0.44, 0.60), sun_tint=(1.2, 0.8, 0.5), ambient_tint=(1.1, 0.92, 0.9)),
            (0.0, 0.2),
        ),
        _RED,
        ("at sunset", "in the evening sun"),
    ),
    "dusk": Sky(
        _lit(_light((30, 80), (0.0, 0.06), (0.44, 0.58), ambient_tint=(0.80, 0.92, 1.25)), (0.1, 0.28)),
        _DEEP,
        ("at dusk", "at twilight"),
    ),
    "lamps": Sky(
        _lit(_light((55, 85), (0.0, 0.2), (0.44, 0.56), ambient_tint=(1.22, 0.95, 0.60)), (0.1, 0.28)),
        _DEEP,
        ("under street lamps",),
    ),
    "overcast": Sky(_light((30, 80), (0.0, 0.08), (0.55, 1.0)), _GREY, ("on a grey day", "under clouds")),
    "tinted": Sky(_light((20, 70), (0.0, 0.4), (0.55, 0.90), ambient_tint=(0.85, 1.1, 0.95)), _GREY, ("",)),
}
"""Lights by name. None is as dark as the night domain."""

AIRS: dict[str, Weather] = {
    "clear": Weather(Air(visibility=(850, 3000), clouds=(0.0, 1.0)), ("",)),
    "haze": Weather(Air(visibility=(125, 215), clouds=(0.0, 0.6)), ("in haze", "on a hazy day")),
    "dust": Weather(
        Air(visibility=(120, 400), clouds=(0.0, 0.3)),
        ("in a dust storm", "in dust"),
        haze=(((20, 50), (0.15, 0.45), (0.50, 0.85)),),
    ),
    "drizzle": Weather(
        Air(visibility=(330, 900), clouds=(0.5, 1.0), rain=(0.05, 0.30), wet=(0.05, 0.32)), ("in a drizzle",)
    ),
    "puddles": Weather(Air(visibility=(330, 900), clouds=(0.2, 1.0), wet=(0.1, 0.34)), ("after a shower",)),
    "frost": Weather(
        Air(visibility=(410, 900), clouds=(0.2, 1.0), flakes=(0.0, 0.15), snow=(0.08, 0.55)),
        ("on a frosty day", "with a little snow"),
    ),
}
"""Weather by name. None has as much rain, fog or snow as the domains of these names."""

SENSORS: dict[str, Sensor] = {
    "sharp": Sensor((0.0, 0.4), (0.0, 1.8), (0.0, 0.2), (0.9, 1.2), (0.9, 1.25), (0.7, 1.6)),
    "soft": Sensor((1.2, 1.9), (0.0, 1.8), (0.0, 0.3), (0.8, 1.15), (0.85, 1.2), (0.6, 1.3)),
    "grainy": Sensor((0.0, 0.45), (11.5, 20.0), (0.0, 0.4), (0.8, 1.2), (0.85, 1.2), (0.5, 1.3)),
    "pale": Sensor((0.0, 1.1), (0.0, 8.0), (0.0, 0.3), (0.50, 0.72), (0.85, 1.15), (0.10, 0.48)),
    "dark": Sensor((0.3, 1.1), (2.0, 10.0), (0.0, 0.4), (0.55, 0.95), (0.45, 0.82), (0.4, 1.2)),
    "bright": Sensor((0.0, 1.0), (0.0, 6.0), (0.0, 0.2), (0.8, 1.25), (1.27, 1.6), (0.5, 1.4)),
}
"""Sensors by name. Each has a range that is disjoint from that of every validation domain."""

_OPTICS = Optics(height=(1.0, 2.8), pitch=(-8.0, 10.0), yaw=(-16, 16), roll=(-5, 5), field_of_view=(36, 66))
_PLAN = Plan(
    lanes=(1, 3),
    lane_width=(2.6, 4.0),
    sidewalk=(1.5, 5.0),
    parking=0.55,
    verge=0.45,
    median=0.2,
    curvature=(0.0, 0.006),
    junction=0.55,
    junction_at=(12, 42),
    end=(45, 150),
    setback=(0.0, 6.0),
    lot=(7, 22),
    floors=(1, 9),
    lots={"block": 0.40, "house": 0.2, "wall": 0.14, "park": 0.16, "plot": 0.10},
    buildings={"flats": 0.25, "ribbon": 0.15, "shops": 0.2, "hall": 0.1, "glass": 0.1, "brick": 0.2},
    trees={"round": 0.25, "palm": 0.1, "wide": 0.15, "poplar": 0.15, "conifer": 0.15, "bare": 0.1, "bush": 0.1},
    walls={"plaster": 0.25, "panel": 0.25, "brick": 0.25, "stone": 0.25},
    fences={"iron": 0.25, "board": 0.25, "picket": 0.25, "mesh": 0.25},
    lamps={"arm": 0.4, "utility": 0.2, "globe": 0.2, "bollard": 0.2},
    tree_spacing=(6, 22),
    lamp_spacing=(14, 32),
    yellow_lines=0.25,
)
_CROWD = Crowd(
    pedestrians=(2, 12),
    crossing=(0, 4),
    parked=0.65,
    gap=(8, 40),
    cyclists=(0, 3),
    signs=(2, 5),
    cars={"sedan": 0.3, "hatchback": 0.3, "suv": 0.2, "van": 0.2},
    extras={"none": 0.25, "bag": 0.15, "backpack": 0.15, "skirt": 0.1, "hat": 0.1, "coat": 0.15, "umbrella": 0.1},
    # Rare classes are frequent here, because a class is learned from its captions.
    seen={label: max(share, 0.55) for label, share in _SOURCE.crowd.seen.items()},
)


def _style(names: tuple[str, str, str]) -> Style:
    sky, weather, sensor = LIGHTS[names[0]], AIRS[names[1]], SENSORS[names[2]]
    return Style(
        name="_".join(("wide", *names)),
        when=tuple(" ".join(filter(None, words)) for words in itertools.product(sky.words, weather.words)),
        streets=("street", "road", "city street", "avenue", "country road"),
        optics=_OPTICS,
        plan=_PLAN,
        crowd=_CROWD,
        look=Look(paints={**_SOURCE.look.paints, **sky.paints, "haze": weather.haze}, texture=(0.4, 1.4)),
        light=sky.light,
        air=weather.air,
        sensor=sensor,
    )


WIDE_STYLES: tuple[Style, ...] = tuple(map(_style, itertools.product(LIGHTS, AIRS, SENSORS)))
"""All combinations of light, weather and sensor."""

EVALUATION_STYLES: dict[str, tuple[Style, ...]] = {
    "wide": WIDE_STYLES,
    **{name: (style,) for name, style in STYLES.items()},
}
"""Styles that the miniatures are measured on, by name: those of their training, and each domain."""
