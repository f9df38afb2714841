"""Traffic: vehicles in lanes and parking spaces, people, cyclists, and furniture along the curb."""

import math

from minicity.world.classes import Label
from minicity.world.figures import STANDING, WALKING, bicycle, motorcycle, pedestrian
from minicity.world.frontage import add_plant
from minicity.world.furniture import SIGNS, lamp_post, traffic_light, traffic_sign
from minicity.world.mesh import Mesh
from minicity.world.sampling import Range
from minicity.world.street import PARKING_WIDTH, Side
from minicity.world.things import Site
from minicity.world.vehicles import bus, car, tram, truck

_AHEAD: Range = (8.0, 26.0)
"""Range of the distance of featured vehicles in meters."""
_LAST = 85.0

Span = tuple[float, float]


def add_vehicles(site: Site, featured: frozenset[Label]) -> None:
    """Place featured trucks, buses and trams near the camera, then fill lanes and parking spaces with vehicles."""
    street, dice = site.street, site.dice
    taken: dict[float, list[Span]] = {}
    lanes = [(direction, street.lane(direction, index)) for direction in (-1, 1) for index in range(street.lanes)]
    own = min(lanes, key=lambda lane: abs(lane[1] - street.viewpoint))
    if Label.TRAIN in featured:
        _tram(site, taken)
    large = dice.shuffled([label for label in (Label.TRUCK, Label.BUS) if label in featured])
    crossed = False
    for label in large:
        if not crossed and dice.chance(0.4) and _cross(site, label):
            crossed = True
            continue
        parked = [side for side in street.sides if side.parking]
        if label == Label.TRUCK and parked and dice.chance(0.35):
            side = dice.pick(parked)
            mesh, noun = _large(site, label)
            z = dice.uniform((10, 24))
            u = side.sign * (side.road - 1.2)
            taken.setdefault(u, []).append((z - mesh.high[2] - 1.0, z + mesh.high[2] + 1.0))
            _drive(site, noun, mesh, (u, z), label, side.sign)
            continue
        for _ in range(6):
            direction, u = dice.pick(lanes)
            mesh, noun = _large(site, label)
            half = float(mesh.high[2])
            start = dice.uniform(_AHEAD) + (6.0 if (direction, u) == own else 0.0)
            if _free(taken.get(u, []), start, start + 2 * half) and site.is_free(
                (u - 1.3, u + 1.3), (start, start + 2 * half)
            ):
                taken.setdefault(u, []).append((start, start + 2 * half))
                _drive(site, noun, mesh, (u, start + half), label, direction)
                break
    for lane in lanes:
        _fill_lane(site, lane, taken.setdefault(lane[1], []), own=lane == own)
    for side in street.sides:
        if side.parking:
            _park(site, side, taken.get(side.sign * (side.road - 1.2), []))
    if not crossed and dice.chance(0.45):
        _cross(site, Label.CAR)


def _tram(site: Site, taken: dict[float, list[Span]]) -> None:
    street, dice = site.street, site.dice
    assert street.tram is not None
    mesh = tram(dice.integer((2, 3)), dice.uniform((0.9, 1.7)) // 0.4 * 0.4)
    half = float(mesh.high[2])
    if street.junction and dice.chance(0.25):
        z = sum(street.junction) / 2
        site.put("tram", mesh, (dice.uniform((-14, 14)), z), site.paint.vehicle(), (Label.TRAIN,), yaw=math.pi / 2)
        return
    own_lane = abs(-street.tram - street.viewpoint) < street.lane_width / 2
    direction = dice.pick((-1, 1)) if not own_lane or dice.chance(0.2) else -1
    u = street.tram if direction < 0 else -street.tram
    start = dice.uniform((9.0, 24.0)) + (8.0 if direction > 0 and own_lane else 0.0)
    taken.setdefault(u, []).append((start - 3, start + 2 * half + 3))
    _drive(site, "tram", mesh, (u, start + half), Label.TRAIN, direction)


def _large(site: Site, label: Label) -> tuple[Mesh, str]:
    dice = site.dice
    if label == Label.BUS:
        return bus(dice.pick(("city", "city", "coach"))), "bus"
    return truck(dice.weighted({"box": 0.4, "trailer": 0.2, "tipper": 0.2, "tanker": 0.2})), "truck"


def _drive(site: Site, noun: str, mesh: Mesh, at: tuple[float, float], label: Label, direction: int) -> None:
    stretch = site.dice.uniform((0.95, 1.05))
    yaw = (0.0 if direction > 0 else math.pi) + site.dice.uniform((-0.03, 0.03))
    site.put(noun, mesh, at, site.paint.vehicle(), (label,), yaw=yaw, scale=(stretch, stretch, stretch))


def _cross(site: Site, label: Label) -> bool:
    """Place a vehicle on the crossing road, seen from its side; return False if there is no road or no room."""
    street, dice = site.street, site.dice
    if street.junction is None:
        return False
    mesh, noun = (car(dice.weighted(site.style.crowd.cars)), "car") if label == Label.CAR else _large(site, label)
    z0, z1 = street.junction
    direction = dice.pick((-1, 1))
    u, z = street.viewpoint + dice.uniform((-9, 9)), (z0 + z1) / 2 - direction * (z1 - z0) / 4
    half = float(mesh.high[2])
    if not site.is_free((u - half, u + half), (z - 2.0, z + 2.0)):
        return False
    site.put(noun, mesh, (u, z), site.paint.vehicle(), (label,), yaw=direction * math.pi / 2)
    return True


def _fill_lane(site: Site, lane: tuple[int, float], taken: list[Span], *, own: bool) -> None:
    dice, crowd = site.dice, site.style.crowd
    direction, u = lane
    z = dice.uniform((9.0, 30.0)) if own else dice.uniform((2.0, 25.0))
    while z < _LAST:
        kind = dice.weighted({"car": 0.89, "truck": 0.03, "bus": 0.02, "motorcycle": 0.06})
        if kind == "car":
            mesh, label = car(dice.weighted(crowd.cars)), Label.CAR
        elif kind == "motorcycle":
            mesh, label = motorcycle(True, dice.pick(("bike", "scooter"))), Label.MOTORCYCLE
        else:
            label = Label.TRUCK if kind == "truck" else Label.BUS
            mesh, _ = _large(site, label)
        half = float(mesh.high[2])
        if (
            _free(taken, z, z + 2 * half)
            and site.is_free((u - 1.2, u + 1.2), (z, z + 2 * half))
            and not site.street.blocked(z - 1, z + 2 * half + 1, 4.0)
        ):
            taken.append((z, z + 2 * half))
            if label == Label.MOTORCYCLE:
                _ride(site, "motorcycle", mesh, (u + dice.uniform((-0.7, 0.7)), z + half), direction)
            else:
                _drive(site, kind, mesh, (u + dice.uniform((-0.2, 0.2)), z + half), label, direction)
        z += 2 * half + dice.uniform(crowd.gap)


def _park(site: Site, side: Side, taken: list[Span]) -> None:
    dice = site.dice
    z = dice.uniform((0.0, 6.0))
    while z < 60:
        if dice.chance(site.style.crowd.parked) and not site.street.blocked(z, z + 5, 3.0) and _free(taken, z, z + 5):
            u = side.sign * (side.road - PARKING_WIDTH / 2 + 0.1)
            _drive(site, "parked car", car(dice.weighted(site.style.crowd.cars)), (u, z + 2.5), Label.CAR, side.sign)
        z += 6.0


def add_riders(site: Site, featured: frozenset[Label]) -> None:
    """Place cyclists and motorcyclists, and featured bicycles and motorcycles parked on the sidewalk."""
    street, dice, crowd = site.street, site.dice, site.style.crowd
    riders = dice.integer(crowd.cyclists) + (Label.RIDER in featured)
    for index in range(riders):
        near = index == 0 and Label.RIDER in featured
        z = dice.uniform((6.0, 16.0) if near else (8.0, 40.0))
        side = dice.pick(street.sides)
        motor = near and Label.MOTORCYCLE in featured and dice.chance(0.45)
        mesh = motorcycle(True, dice.pick(("bike", "scooter"))) if motor else bicycle(True, dice.integer((0, 3)))
        noun = "motorcycle" if motor else "cyclist"
        if dice.chance(0.35):
            direction = dice.pick((-1, 1))
            z = street.junction[0] - 1.5 if street.junction and street.junction[0] < 24 else z
            _ride(site, noun, mesh, (street.viewpoint + dice.uniform((-0.35, 0.35)) * z, z), direction, across=True)
        else:
            inner = side.road - side.parking * PARKING_WIDTH - 0.6
            _ride(site, noun, mesh, (side.sign * inner, z), side.sign)
    for label, count in ((Label.BICYCLE, dice.integer((1, 3))), (Label.MOTORCYCLE, dice.integer((1, 2)))):
        if label not in featured:
            continue
        side, z = dice.pick(street.sides), dice.uniform((5.5, 13.0))
        inner, outer = side.walk
        u = side.sign * (outer - 1.0 if dice.chance(0.6) else inner + 0.5)
        turn = dice.pick((0.0, math.pi / 2, -math.pi / 2)) + dice.uniform((-0.4, 0.4))
        for index in range(count):
            if label == Label.BICYCLE:
                site.put("bicycle", bicycle(False), (u, z + 0.8 * index), site.paint.vehicle(), (label,), yaw=turn)
            else:
                mesh = motorcycle(False, dice.pick(("bike", "scooter")))
                site.put("motorcycle", mesh, (u, z + 1.1 * index), site.paint.vehicle(), (label,), yaw=turn)


def _ride(site: Site, noun: str, mesh: Mesh, at: tuple[float, float], direction: int, *, across: bool = False) -> None:
    half_u, half_z = (1.0, 0.5) if across else (0.5, 1.0)
    if not site.is_free((at[0] - half_u, at[0] + half_u), (at[1] - half_z, at[1] + half_z)):
        return
    yaw = (direction * math.pi / 2 if across else (0.0 if direction > 0 else math.pi)) + site.dice.uniform(
        (-0.25, 0.25)
    )
    machine = Label.MOTORCYCLE if noun == "motorcycle" else Label.BICYCLE
    site.put(noun, mesh, at, {**site.paint.person(), **site.paint.vehicle()}, (machine, Label.RIDER), yaw=yaw)


def add_people(site: Site, featured: frozenset[Label]) -> None:
    """Place pedestrians on both sidewalks, some in pairs, and some who cross the road."""
    street, dice, crowd = site.street, site.dice, site.style.crowd
    if Label.PERSON not in featured:
        return
    for index in range(dice.integer(crowd.pedestrians)):
        side = dice.pick(street.sides)
        inner, outer = side.walk
        z = dice.uniform((5.5, 15.0)) if index < 2 else 6.0 + 44.0 * dice.number() ** 1.5
        u = dice.uniform((inner + 0.5, max(outer - 0.4, inner + 0.6)))
        yaw = dice.pick((0.0, math.pi)) + dice.uniform((-0.3, 0.3))
        _person(site, (side.sign * u, z), yaw)
        if dice.chance(0.3):
            _person(site, (side.sign * u + dice.pick((-0.6, 0.6)), z + dice.uniform((-0.2, 0.3))), yaw)
    z = street.junction[0] - 2.0 if street.junction else dice.uniform((12, 30))
    for _ in range(dice.integer(crowd.crossing)):
        u = dice.uniform((-street.left.road, street.right.road))
        if abs(u - street.viewpoint) < 1.0 and z < 12:
            continue
        _person(
            site,
            (u, z + dice.uniform((-1.0, 1.0))),
            dice.pick((-1, 1)) * math.pi / 2 + dice.uniform((-0.3, 0.3)),
            moving=True,
        )


def _person(site: Site, at: tuple[float, float], yaw: float, *, moving: bool = False) -> None:
    dice = site.dice
    if not site.is_free((at[0] - 0.4, at[0] + 0.4), (at[1] - 0.4, at[1] + 0.4)):
        return
    pose = dice.pick(WALKING) if moving or dice.chance(0.65) else dice.pick(STANDING)
    if pose in STANDING:
        yaw += dice.uniform((-1.6, 1.6))
    child = dice.chance(0.12)
    tall = dice.uniform((0.62, 0.78)) if child else dice.uniform((0.9, 1.1))
    wide = tall * dice.uniform((0.9, 1.2))
    mesh = pedestrian(pose, dice.weighted(site.style.crowd.extras))
    site.put("person", mesh, at, site.paint.person(), (Label.PERSON,), yaw=yaw, scale=(wide, tall, wide))


def add_furniture(site: Site, featured: frozenset[Label]) -> None:
    """Place trees along the curb, lamps, traffic lights and signs."""
    street, dice, plan = site.street, site.dice, site.style.plan
    lamps = dice.weighted(plan.lamps)
    for side in street.sides:
        kerb = side.road + 0.45
        if Label.VEGETATION in featured and dice.chance(0.6):
            _row(
                site,
                side.sign * (kerb + 0.2),
                dice.uniform(plan.tree_spacing),
                70.0,
                dice.weighted({k: w for k, w in plan.trees.items() if k != "bush"}),
            )
        spacing = 4.0 if lamps == "bollard" else dice.uniform(plan.lamp_spacing)
        z = dice.uniform((7.5, 7.5 + spacing))
        while z < (30.0 if lamps == "bollard" else 80.0):
            if not street.blocked(z, z):
                palette = site.paint.post()
                site.put(
                    "",
                    lamp_post(lamps),
                    (side.sign * kerb, z),
                    palette,
                    (Label.POLE,),
                    yaw=0.0 if side.sign > 0 else math.pi,
                )
            z += spacing
    if Label.TRAFFIC_LIGHT in featured:
        _traffic_lights(site)
    if Label.TRAFFIC_SIGN in featured:
        for index in range(dice.integer(site.style.crowd.signs)):
            side = dice.pick(street.sides)
            z = dice.uniform((6.0, 16.0) if index == 0 else (8.0, 45.0))
            kind = dice.pick(SIGNS)
            away = dice.chance(0.2) and index > 0
            yaw = (math.pi if away else 0.0) + dice.uniform((-0.25, 0.25))
            mesh = traffic_sign(kind, dice.pick((1.9, 2.2, 2.6)))
            u = side.sign * (side.road + (1.3 if kind == "direction" else 0.5))
            site.put("traffic sign", mesh, (u, z), site.paint.post(), (Label.POLE, Label.TRAFFIC_SIGN), yaw=yaw)


def _traffic_lights(site: Site) -> None:
    street, dice = site.street, site.dice
    z = street.junction[0] - 4.4 if street.junction else dice.uniform((9.0, 26.0))
    state = dice.integer((0, 2))
    kind = dice.pick(("post", "mast"))
    for side in street.sides:
        labels = (Label.POLE, Label.TRAFFIC_LIGHT)
        shape = traffic_light(kind if side.sign > 0 else "post", state)
        site.put("traffic light", shape, (side.sign * (side.road + 0.35), z), site.paint.post(), labels)
        if street.junction:
            site.put(
                "traffic light",
                traffic_light("post", state),
                (side.sign * (side.road + 0.4), street.junction[1] + 1.0),
                site.paint.post(),
                labels,
            )


def _row(site: Site, u: float, spacing: float, until: float, kind: str) -> None:
    dice = site.dice
    z = dice.uniform((9.0, 9.0 + spacing))
    while z < until:
        if not site.street.blocked(z, z, 2.0):
            add_plant(site, (u, z), kind)
        z += spacing * dice.uniform((0.85, 1.15))


def _free(taken: list[Span], z0: float, z1: float, gap: float = 2.0) -> bool:
    return all(z1 + gap < a or b + gap < z0 for a, b in taken)
