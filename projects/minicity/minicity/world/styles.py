"""Styles of the domains: the ranges from which their scenes are drawn."""

from dataclasses import replace

from clouds.errors import UserError
from minicity.world.classes import Label
from minicity.world.paints import ANY, PAINTS
from minicity.world.style import Air, Crowd, Light, Look, Optics, Plan, Sensor, Style

_SEEN: dict[Label, float] = {
    Label.WALL: 0.45,
    Label.FENCE: 0.5,
    Label.TERRAIN: 0.6,
    Label.TRUCK: 0.38,
    Label.BUS: 0.38,
    Label.TRAIN: 0.36,
    Label.MOTORCYCLE: 0.62,
    Label.BICYCLE: 0.55,
    Label.RIDER: 0.5,
    Label.PERSON: 0.9,
    Label.TRAFFIC_LIGHT: 0.6,
    Label.TRAFFIC_SIGN: 0.9,
    Label.VEGETATION: 0.95,
}

_SIM = Style(
    name="minicity_sim",
    when=("at noon", "on a sunny day", "under a clear sky", "in bright sunshine"),
    streets=("wide street", "straight road", "street", "boulevard"),
    optics=Optics(height=(1.2, 2.6), pitch=(-8.0, 10.0), yaw=(-15, 15), roll=(-4, 4), field_of_view=(42, 62)),
    plan=Plan(
        lanes=(1, 3),
        lane_width=(3.3, 3.8),
        sidewalk=(2.6, 4.5),
        parking=0.5,
        verge=0.45,
        median=0.25,
        curvature=(0.0, 0.0015),
        junction=0.55,
        junction_at=(16, 42),
        end=(80, 150),
        setback=(0.0, 4.0),
        lot=(10, 22),
        floors=(2, 5),
        lots={"block": 0.50, "house": 0.2, "wall": 0.10, "park": 0.14, "plot": 0.06},
        buildings={"flats": 0.3, "ribbon": 0.25, "shops": 0.25, "hall": 0.1, "glass": 0.1},
        trees={"round": 0.5, "palm": 0.2, "wide": 0.2, "poplar": 0.1},
        walls={"plaster": 0.4, "panel": 0.35, "brick": 0.25},
        fences={"iron": 0.4, "board": 0.3, "picket": 0.3},
        lamps={"arm": 0.8, "utility": 0.2},
        tree_spacing=(9, 22),
        lamp_spacing=(20, 32),
        yellow_lines=0.4,
    ),
    crowd=Crowd(
        pedestrians=(1, 7),
        crossing=(0, 3),
        parked=0.55,
        gap=(9, 45),
        cyclists=(0, 1),
        signs=(1, 3),
        cars={"sedan": 0.5, "hatchback": 0.25, "suv": 0.2, "van": 0.05},
        extras={"none": 0.6, "bag": 0.1, "backpack": 0.1, "skirt": 0.1, "hat": 0.1},
        seen=_SEEN,
    ),
    look=Look(paints=PAINTS, texture=(0.5, 0.9)),
    light=Light(
        elevation=(50, 75),
        sun=(0.42, 0.60),
        sun_tint=(1.0, 0.98, 0.92),
        ambient=(0.58, 0.70),
        ambient_tint=(0.98, 1.0, 1.04),
        shadow=(0.35, 0.5),
    ),
    air=Air(visibility=(900, 2000), clouds=(0.0, 0.6)),
    sensor=Sensor(
        blur=(0, 0), noise=(0, 0), vignette=(0, 0), contrast=(1.0, 1.1), gain=(1.0, 1.08), saturation=(1.25, 1.5)
    ),
)

_CITY = replace(
    _SIM,
    name="minicity_city",
    when=("on a cloudy day", "in the afternoon", "in the morning", "on a hazy day"),
    streets=("city street", "narrow street", "busy street", "street"),
    optics=Optics(height=(1.1, 1.6), pitch=(-4.0, 8.0), yaw=(-12, 12), roll=(-2.5, 2.5), field_of_view=(38, 55)),
    plan=replace(
        _SIM.plan,
        lanes=(1, 2),
        lane_width=(2.7, 3.2),
        sidewalk=(2.2, 4.6),
        parking=0.55,
        verge=0.25,
        median=0.1,
        curvature=(0.0, 0.006),
        junction_at=(12, 30),
        end=(50, 110),
        setback=(0.0, 1.5),
        lot=(7, 15),
        floors=(3, 7),
        lots={"block": 0.62, "house": 0.1, "wall": 0.11, "park": 0.12, "plot": 0.05},
        buildings={"flats": 0.35, "brick": 0.3, "shops": 0.3, "ribbon": 0.05},
        trees={"round": 0.4, "wide": 0.3, "poplar": 0.15, "conifer": 0.05, "bush": 0.1},
        walls={"brick": 0.5, "stone": 0.3, "plaster": 0.2},
        fences={"iron": 0.5, "mesh": 0.25, "picket": 0.15, "board": 0.1},
        lamps={"arm": 0.45, "globe": 0.3, "bollard": 0.25},
        tree_spacing=(7, 16),
        lamp_spacing=(14, 26),
        yellow_lines=0.05,
    ),
    crowd=replace(
        _SIM.crowd,
        pedestrians=(5, 16),
        crossing=(0, 5),
        parked=0.75,
        gap=(7, 26),
        cyclists=(0, 3),
        signs=(2, 5),
        cars={"sedan": 0.25, "hatchback": 0.4, "suv": 0.2, "van": 0.15},
        extras={"none": 0.35, "bag": 0.2, "backpack": 0.15, "skirt": 0.1, "coat": 0.1, "hat": 0.1},
    ),
    look=Look(
        paints={
            **PAINTS,
            "asphalt": (
                (ANY, (0.0, 0.06), (0.26, 0.48)),
                ((200, 260), (0.04, 0.14), (0.28, 0.46)),
                ((20, 40), (0.05, 0.25), (0.3, 0.5)),
            ),
            "wall": (
                ((15, 50), (0.08, 0.38), (0.35, 0.80)),
                ((0, 22), (0.25, 0.5), (0.28, 0.55)),
                (ANY, (0.0, 0.10), (0.30, 0.85)),
            ),
            "sky_top": (((200, 230), (0.03, 0.25), (0.72, 0.95)),),
            "sky_low": (((190, 230), (0.0, 0.10), (0.88, 1.0)),),
        },
        texture=(0.9, 1.3),
    ),
    light=Light(
        elevation=(18, 50),
        sun=(0.10, 0.50),
        sun_tint=(1.05, 0.98, 0.86),
        ambient=(0.78, 0.98),
        ambient_tint=(0.98, 1.0, 1.02),
        shadow=(0.3, 0.6),
    ),
    air=Air(visibility=(220, 800), clouds=(0.3, 1.0)),
    sensor=Sensor(
        blur=(0.5, 0.9),
        noise=(3, 7),
        vignette=(0.1, 0.35),
        contrast=(0.85, 1.1),
        gain=(0.92, 1.15),
        saturation=(0.6, 0.95),
    ),
)

_NIGHT = replace(
    _CITY,
    name="minicity_night",
    when=("at night", "in the dark", "late in the evening"),
    streets=("lit street", "city street", "street"),
    optics=replace(_CITY.optics, height=(1.2, 1.8), field_of_view=(42, 60)),
    plan=replace(
        _CITY.plan,
        lanes=(1, 3),
        lane_width=(3.0, 3.5),
        floors=(2, 9),
        setback=(0.0, 3.0),
        buildings={"flats": 0.3, "glass": 0.25, "ribbon": 0.2, "shops": 0.25},
    ),
    crowd=replace(_CITY.crowd, pedestrians=(3, 10), gap=(8, 34), parked=0.65),
    look=Look(
        paints={
            **PAINTS,
            "sky_top": (((215, 250), (0.2, 0.6), (0.04, 0.14)),),
            "sky_low": (((15, 40), (0.1, 0.45), (0.12, 0.28)), ((215, 250), (0.2, 0.5), (0.10, 0.22))),
            "cloud": (((15, 40), (0.05, 0.3), (0.12, 0.26)),),
            "haze": (((20, 45), (0.1, 0.35), (0.12, 0.22)),),
        },
        texture=(0.8, 1.2),
    ),
    light=Light(
        elevation=(55, 80),
        sun=(0.05, 0.16),
        sun_tint=(1.1, 0.9, 0.6),
        ambient=(0.24, 0.42),
        ambient_tint=(0.95, 0.95, 1.12),
        shadow=(0.2, 0.4),
        beam=(0.3, 0.55),
        lights_on=True,
    ),
    air=Air(visibility=(250, 700), clouds=(0.0, 0.7)),
    sensor=Sensor(
        blur=(0.6, 1.0),
        noise=(5, 11),
        vignette=(0.15, 0.4),
        contrast=(0.95, 1.15),
        gain=(0.95, 1.25),
        saturation=(0.6, 0.95),
    ),
)

_RAIN = replace(
    _CITY,
    name="minicity_rain",
    when=("in the rain", "on a rainy day", "in heavy rain"),
    streets=("wet street", "wet road", "rainy street"),
    optics=replace(_CITY.optics, height=(1.2, 1.6), pitch=(-3.0, 8.0), field_of_view=(40, 58)),
    plan=replace(
        _CITY.plan,
        lanes=(1, 2),
        lane_width=(3.0, 3.5),
        floors=(2, 6),
        verge=0.4,
        lot=(9, 18),
        lots={"block": 0.5, "house": 0.2, "wall": 0.1, "park": 0.14, "plot": 0.06},
        buildings={"flats": 0.25, "brick": 0.25, "shops": 0.3, "hall": 0.1, "ribbon": 0.1},
    ),
    crowd=replace(_CITY.crowd, pedestrians=(3, 9), extras={"umbrella": 0.6, "coat": 0.25, "none": 0.15}),
    look=Look(
        paints={
            **PAINTS,
            "sky_top": (((200, 230), (0.02, 0.14), (0.48, 0.68)),),
            "sky_low": (((200, 230), (0.0, 0.08), (0.60, 0.80)),),
            "cloud": ((ANY, (0.0, 0.05), (0.40, 0.62)),),
            "haze": (((200, 225), (0.02, 0.10), (0.55, 0.70)),),
        },
        texture=(0.8, 1.2),
    ),
    light=Light(
        elevation=(50, 80),
        sun=(0.0, 0.08),
        sun_tint=(1.0, 1.0, 1.0),
        ambient=(0.75, 0.95),
        ambient_tint=(0.95, 1.0, 1.07),
        shadow=(0.25, 0.5),
        lights_on=True,
    ),
    air=Air(visibility=(110, 320), clouds=(0.7, 1.0), rain=(0.35, 1.0), wet=(0.35, 0.65)),
    sensor=Sensor(
        blur=(0.6, 1.1),
        noise=(3, 7),
        vignette=(0.1, 0.3),
        contrast=(0.8, 1.0),
        gain=(0.85, 1.05),
        saturation=(0.5, 0.85),
    ),
)

_FOG = replace(
    _CITY,
    name="minicity_fog",
    when=("in thick fog", "on a foggy morning", "in the fog"),
    streets=("foggy street", "country road", "quiet street", "street"),
    optics=replace(_CITY.optics, height=(1.3, 1.9), pitch=(-4.0, 7.0), field_of_view=(40, 58)),
    plan=replace(
        _CITY.plan,
        lanes=(1, 2),
        lane_width=(3.0, 3.6),
        sidewalk=(1.6, 2.6),
        parking=0.4,
        verge=0.7,
        floors=(1, 4),
        setback=(1.0, 6.0),
        lot=(9, 20),
        lots={"block": 0.25, "house": 0.3, "wall": 0.13, "park": 0.22, "plot": 0.1},
        buildings={"flats": 0.25, "brick": 0.35, "hall": 0.4},
        trees={"round": 0.3, "poplar": 0.25, "conifer": 0.2, "bare": 0.1, "bush": 0.15},
        fences={"mesh": 0.3, "picket": 0.35, "board": 0.35},
        lamps={"utility": 0.5, "arm": 0.5},
    ),
    crowd=replace(_CITY.crowd, pedestrians=(2, 7), parked=0.5, gap=(9, 34)),
    look=Look(
        paints={
            **PAINTS,
            "sky_top": (((190, 230), (0.0, 0.08), (0.66, 0.86)),),
            "sky_low": (((190, 230), (0.0, 0.06), (0.68, 0.88)),),
            "haze": (((190, 230), (0.0, 0.07), (0.66, 0.86)), ((30, 50), (0.02, 0.08), (0.66, 0.82))),
        },
        texture=(0.8, 1.2),
    ),
    light=Light(
        elevation=(40, 80),
        sun=(0.0, 0.06),
        sun_tint=(1.0, 1.0, 1.0),
        ambient=(0.68, 0.88),
        ambient_tint=(0.99, 1.0, 1.02),
        shadow=(0.2, 0.4),
        lights_on=True,
    ),
    air=Air(visibility=(35, 110), clouds=(0.0, 0.3)),
    sensor=Sensor(
        blur=(0.6, 1.1),
        noise=(2, 6),
        vignette=(0.1, 0.3),
        contrast=(0.8, 1.0),
        gain=(0.85, 1.05),
        saturation=(0.5, 0.8),
    ),
)

_SNOW = replace(
    _CITY,
    name="minicity_snow",
    when=("in the snow", "on a snowy day", "in winter"),
    streets=("snowy street", "snow-covered road", "street"),
    optics=replace(_CITY.optics, height=(1.2, 1.8), field_of_view=(42, 60)),
    plan=replace(
        _CITY.plan,
        lanes=(1, 2),
        lane_width=(3.0, 3.5),
        verge=0.45,
        floors=(2, 5),
        setback=(0.0, 5.0),
        lots={"block": 0.4, "house": 0.3, "wall": 0.1, "park": 0.15, "plot": 0.05},
        buildings={"flats": 0.3, "brick": 0.35, "shops": 0.25, "hall": 0.1},
        trees={"bare": 0.5, "conifer": 0.35, "bush": 0.15},
        tree_spacing=(6, 14),
    ),
    crowd=replace(_CITY.crowd, pedestrians=(3, 9), extras={"coat": 0.5, "hat": 0.3, "backpack": 0.2}),
    look=Look(
        paints={
            **PAINTS,
            "leaf": (((90, 160), (0.15, 0.45), (0.22, 0.42)), ((30, 60), (0.15, 0.35), (0.25, 0.45))),
            "sky_top": (((200, 230), (0.0, 0.12), (0.66, 0.88)),),
            "sky_low": (((200, 230), (0.0, 0.06), (0.78, 0.95)),),
            "cloud": ((ANY, (0.0, 0.04), (0.70, 0.9)),),
        },
        texture=(0.8, 1.2),
    ),
    light=Light(
        elevation=(15, 50),
        sun=(0.0, 0.18),
        sun_tint=(1.04, 1.0, 0.92),
        ambient=(0.82, 1.0),
        ambient_tint=(0.96, 1.0, 1.06),
        shadow=(0.2, 0.45),
    ),
    air=Air(visibility=(120, 400), clouds=(0.3, 1.0), flakes=(0.2, 1.0), snow=(0.65, 1.0)),
    sensor=Sensor(
        blur=(0.5, 0.9),
        noise=(2, 6),
        vignette=(0.05, 0.25),
        contrast=(0.75, 1.0),
        gain=(0.85, 1.05),
        saturation=(0.5, 0.8),
    ),
)

STYLES: dict[str, Style] = {style.name: style for style in (_SIM, _CITY, _NIGHT, _RAIN, _FOG, _SNOW)}
"""Styles of the domains by name. `minicity_sim` is the source; the others are never trained on."""


def find_style(name: str) -> Style:
    """Return the style of this name.

    Raises:
        UserError: there is no such style.
    """
    if name not in STYLES:
        raise UserError(f"minicity has no style {name!r}; its styles are {', '.join(STYLES)}.")
    return STYLES[name]
