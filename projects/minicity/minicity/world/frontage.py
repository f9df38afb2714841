"""Lots behind the sidewalks: buildings, gardens, walls and parks; the end of the street and the skyline."""

import math

from minicity.world.buildings import BAY, FLOOR, building, fence, wall
from minicity.world.classes import Label
from minicity.world.furniture import tree
from minicity.world.ground import Lot
from minicity.world.street import BEHIND
from minicity.world.things import Site

_NEAR_LOTS = (4.0, 34.0)
_VARIANTS = 3


def add_frontage(site: Site, featured: frozenset[Label]) -> list[Lot]:
    """Place lots along both sides of the street, the end of the street and the skyline.

    Args:
        site: scene to add objects to.
        featured: classes that must be in view. Wall, fence and terrain get a lot near the camera.

    Returns:
        The lots.
    """
    wanted = [
        kind
        for label, kind in ((Label.WALL, "wall"), (Label.FENCE, "fence"), (Label.TERRAIN, "park"))
        if label in featured
    ]
    wanted = site.dice.shuffled(wanted)
    lots = []
    for sign in (-1, 1):
        # Each side gets its share of the featured lots, so that they do not compete for one place.
        mine = wanted[::2] if sign < 0 else wanted[1::2]
        lots += _line(site, sign, mine)
    _close(site)
    _backdrop(site)
    return lots


def _line(site: Site, sign: int, wanted: list[str]) -> list[Lot]:
    street, plan, dice = site.street, site.style.plan, site.dice
    lots = []
    z = BEHIND + dice.uniform((-8.0, 2.0))
    while z < street.end:
        length = dice.uniform(plan.lot)
        if street.junction and street.blocked(z, z + length, 2.5):
            room = street.junction[0] - 2.5 - z
            if room < 5.0:
                z = street.junction[1] + 2.5
                continue
            length = min(length, room)
        kind = dice.weighted(plan.lots)
        if wanted and _NEAR_LOTS[0] < z + length and z < _NEAR_LOTS[1] and z + length > 9.0:
            kind = wanted.pop()
        lots.append(_build(site, sign, kind, z, z + length))
        z += length + (dice.uniform((0.5, 4.0)) if dice.chance(0.3) else 0.0)
    return lots


def _build(site: Site, sign: int, kind: str, z0: float, z1: float) -> Lot:
    dice, plan = site.dice, site.style.plan
    edge = (site.street.right if sign > 0 else site.street.left).facade
    setback = dice.uniform(plan.setback)
    if kind == "block":
        _building(site, sign, dice.weighted(plan.buildings), edge + setback, z0, z1, dice.integer(plan.floors))
        return Lot(sign, z0, z1, True, setback + 1.0)
    if kind == "house":
        back = edge + dice.uniform((3.0, 6.5))
        _building(site, sign, "house", back, z0 + 1.0, z1 - 1.0, dice.integer((1, 2)))
        boundary = dice.weighted({"fence": 0.5, "wall": 0.2, "hedge": 0.3})
        _boundary(site, sign, boundary, edge + 0.2, z0, z1, low=True)
        _plants(site, sign, edge + 1.5, back - 0.5, z0, z1, dice.integer((0, 2)))
        return Lot(sign, z0, z1, False, 0.0)
    if kind == "wall":
        _grounds(site, sign, kind, edge, z0, z1, built=0.5, back=(5.0, 9.0), depth=5.0, plants=(1, 3))
        return Lot(sign, z0, z1, False, 0.0)
    if kind == "fence":
        _grounds(site, sign, kind, edge, z0, z1, built=0.6, back=(4.0, 8.0), depth=6.0, plants=(0, 2))
        return Lot(sign, z0, z1, dice.chance(0.4), 12.0)
    if kind == "park":
        if dice.chance(0.35):
            _boundary(site, sign, "fence", edge + 0.2, z0, z1, low=True)
        _plants(site, sign, edge + 2.5, edge + 22, z0, z1, dice.integer((2, 6)))
        return Lot(sign, z0, z1, False, 0.0)
    _plants(site, sign, edge + 4, edge + 16, z0, z1, dice.integer((0, 3)))
    if dice.chance(0.5):
        _boundary(site, sign, dice.pick(("fence", "wall")), edge + dice.uniform((0.2, 8.0)), z0, z1, low=True)
    return Lot(sign, z0, z1, dice.chance(0.3), 14.0)


def _grounds(
    site: Site,
    sign: int,
    boundary: str,
    edge: float,
    z0: float,
    z1: float,
    *,
    built: float,
    back: tuple[float, float],
    depth: float,
    plants: tuple[int, int],
) -> None:
    """Place a high wall or fence with grounds behind it.

    Args:
        site: scene to add objects to.
        sign: side of the street.
        boundary: wall or fence.
        edge: |u| of the outer edge of the sidewalk.
        z0: start of the lot.
        z1: end of the lot.
        built: probability of a building.
        back: range of the distance of the building from the edge in meters.
        depth: distance of the plants from the edge in meters, at most.
        plants: range of the number of plants.
    """
    dice, plan = site.dice, site.style.plan
    _boundary(site, sign, boundary, edge + 0.1, z0, z1, low=False)
    if dice.chance(built):
        kind, u = dice.weighted(plan.buildings), edge + dice.uniform(back)
        _building(site, sign, kind, u, z0, z1, dice.integer((1, max(2, plan.floors[1] - 1))))
    _plants(site, sign, edge + 1.5, edge + depth, z0, z1, dice.integer(plants))


def _building(site: Site, sign: int, kind: str, u: float, z0: float, z1: float, floors: int) -> None:
    length = z1 - z0
    bays = max(1, min(8, round(length / BAY)))
    floors = min(floors, 2) if kind in ("house", "hall") else max(floors, 2)
    mesh = building(kind, floors, bays, site.dice.below(_VARIANTS))
    scale = (1.0, site.dice.uniform((0.9, 1.12)) * (1.5 if kind == "hall" else 1.0), length / (bays * BAY))
    noun = "house" if kind == "house" else "building"
    site.put(
        noun,
        mesh,
        (sign * u, (z0 + z1) / 2),
        site.paint.building(),
        (Label.BUILDING,),
        yaw=_towards_road(sign),
        scale=scale,
    )


def _boundary(site: Site, sign: int, kind: str, u: float, z0: float, z1: float, *, low: bool) -> None:
    """Place a wall, fence or hedge along the sidewalk, in pieces of at most 8 m, which follow a bend."""
    dice, plan = site.dice, site.style.plan
    if kind == "hedge":
        palette = site.paint.plant()
        z = z0
        while z < min(z1, 60.0):
            scale = (0.95, dice.uniform((1.0, 1.4)), 1.0)
            site.put(
                "",
                tree("bush", dice.below(_VARIANTS)),
                (sign * (u + 0.6), z + 0.5),
                palette,
                (Label.VEGETATION,),
                scale=scale,
                upright=True,
            )
            z += 1.5
        return
    is_wall = kind == "wall"
    name = dice.weighted(plan.walls if is_wall else plan.fences)
    palette = site.paint.wall() if is_wall else site.paint.fence()
    rise = (
        dice.uniform((0.45, 0.8) if low else (0.85, 1.6))
        if is_wall
        else dice.uniform((0.9, 1.3) if low else (1.3, 2.1))
    )
    pieces = max(1, math.ceil((z1 - z0) / 8.0))
    step = (z1 - z0) / pieces
    for index in range(pieces):
        length = max(2, round(step))
        mesh = wall(name, length, index % _VARIANTS) if is_wall else fence(name, length)
        middle = z0 + (index + 0.5) * step
        label = Label.WALL if is_wall else Label.FENCE
        site.put(
            kind, mesh, (sign * u, middle), palette, (label,), yaw=_towards_road(sign), scale=(1.0, rise, step / length)
        )


def _plants(site: Site, sign: int, u0: float, u1: float, z0: float, z1: float, count: int) -> None:
    for _ in range(count):
        at = (sign * site.dice.uniform((u0, max(u1, u0 + 0.1))), site.dice.uniform((z0 + 0.5, z1 - 0.5)))
        add_plant(site, at, site.dice.weighted(site.style.plan.trees))


def add_plant(site: Site, at: tuple[float, float], kind: str) -> None:
    """Place a tree or bush at (u, z)."""
    dice = site.dice
    height = {"bush": (0.9, 1.9), "poplar": (8, 13), "conifer": (5, 11), "palm": (6, 9)}.get(kind, (4.5, 9.0))
    tall = dice.uniform(height)
    mesh = tree(kind, dice.below(_VARIANTS))
    wide = tall * dice.uniform((0.85, 1.2))
    site.put(
        "bush" if kind == "bush" else "tree",
        mesh,
        at,
        site.paint.plant(),
        (Label.VEGETATION,),
        scale=(wide, tall, 1.0),
        upright=True,
    )


def _close(site: Site) -> None:
    """Close the street with a row of buildings or trees, or leave it open."""
    street, dice, plan = site.street, site.dice, site.style.plan
    ending = dice.weighted({"row": 0.5, "trees": 0.25, "open": 0.25})
    z = street.end + 12
    if ending == "row":
        u = -55.0
        while u < 55:
            bays = dice.integer((3, 6))
            width = bays * BAY
            kind = dice.weighted(plan.buildings)
            floors = 2 if kind in ("house", "hall") else max(2, dice.integer(plan.floors))
            mesh = building(kind, floors, bays, dice.below(_VARIANTS))
            site.put("building", mesh, (u + width / 2, z), site.paint.building(), (Label.BUILDING,), yaw=-math.pi / 2)
            u += width + dice.uniform((0, 3))
    elif ending == "trees":
        for _ in range(10):
            add_plant(site, (dice.uniform((-45, 45)), z + dice.uniform((0, 6))), dice.weighted(plan.trees))


def _backdrop(site: Site) -> None:
    """Place buildings and trees far away, so that gaps do not show a bare horizon."""
    dice = site.dice
    for index in range(14):
        u, z = (index - 6.5) * 32 + dice.uniform((-12, 12)), dice.uniform((150, 240))
        if dice.chance(0.5):
            mesh = building("flats", dice.integer((2, 4)), dice.integer((3, 7)), 0)
            rise = dice.uniform((0.8, 2.2)) * FLOOR / 3.2
            site.put(
                "", mesh, (u, z), site.paint.building(), (Label.BUILDING,), yaw=-math.pi / 2, scale=(1.0, rise, 1.6)
            )
        else:
            kind = dice.weighted(site.style.plan.trees)
            size = (dice.uniform((14, 30)), dice.uniform((8, 15)), 1.0)
            site.put(
                "",
                tree(kind, index % _VARIANTS),
                (u, z),
                site.paint.plant(),
                (Label.VEGETATION,),
                scale=size,
                upright=True,
            )


def _towards_road(sign: int) -> float:
    return 0.0 if sign > 0 else math.pi
