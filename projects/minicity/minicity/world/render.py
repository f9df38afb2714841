"""Renderer: from a scene to its image, label map, depth, objects and caption.

Painter's algorithm: sky, ground, shadows, objects from far to near, weather, sensor.
"""

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from minicity.world.camera import Array, Camera
from minicity.world.canvas import MAX_REGIONS, SHIFT, Canvas, Placed
from minicity.world.caption import write_caption
from minicity.world.classes import Label
from minicity.world.ground import paint_ground, shade_ground
from minicity.world.records import Rendered, SceneObject
from minicity.world.sampling import Dice
from minicity.world.scene import Scene, sample_scene, scene_rng
from minicity.world.styles import find_style
from minicity.world.textures import Field, look_up
from minicity.world.things import Thing
from minicity.world.weather import expose, paint_sky

_GROUND_REGIONS = 3
_NO_CONTACT_SHADOW = (Label.BUILDING, Label.VEGETATION, Label.FENCE)


def render_scene(style_name: str, seed: int, index: int, size: tuple[int, int] = (256, 512)) -> Rendered:
    """Render scene `index` of a style and seed.

    Args:
        style_name: key of `minicity.world.styles.STYLES`.
        seed: 0 or more. Different seeds give different sequences of scenes.
        index: 0 or more.
        size: (H, W) of the image in pixels.

    Raises:
        UserError: there is no such style.
    """
    style = find_style(style_name)
    rng = scene_rng(style, seed, index)
    return render(sample_scene(style, rng, size), rng)


def render(scene: Scene, rng: np.random.Generator) -> Rendered:
    """Render a scene. `rng` determines noise, clouds and the choice of words."""
    dice = Dice(rng)
    canvas = Canvas(scene.camera, scene.lighting)
    paint_sky(canvas, scene.atmosphere, dice)
    paint_ground(canvas, scene.street, list(scene.lots), scene.ground, dice)
    things, footprints = _in_view(scene)
    shadows = _shadows(canvas, things, footprints)
    shade_ground(canvas, shadows, scene.atmosphere.shadow, scene.atmosphere.texture, scene.atmosphere.wet, dice)
    order = back_to_front(np.concatenate([footprints.min(axis=1), footprints.max(axis=1)], axis=1))
    planes, bounds = _depths(scene.camera, footprints)
    placed = []
    for number in order:
        thing = things[number]
        regions = tuple(canvas.region(label, number, planes[number], bounds[number]) for label in thing.labels)
        placed.append(Placed(thing.mesh, thing.position, thing.yaw, thing.scale, thing.palette, regions))
    canvas.draw(placed)

    numbers = np.ascontiguousarray(canvas.pixels[:, :, 3])
    label = look_up(numbers, [region.label for region in canvas.regions]).astype(np.uint8)
    with np.errstate(divide="ignore"):
        depth = 1.0 / _inverse_depth(canvas, numbers)
    objects = _objects(canvas, things)
    image = expose(canvas, label, depth, scene.atmosphere, dice)
    caption = write_caption(objects, label, scene.where, scene.when, scene.open_ground, dice)
    return Rendered(image, label, depth, caption, objects)


def back_to_front(boxes: Array) -> list[int]:
    """Sort objects on the ground from back to front.

    If a line along an axis separates two boxes, only the box on the camera's side of the line can hide the other, and
    only if both lie in a common direction. Disjoint boxes never hide each other in a cycle, so a topological sort of
    these pairs is exact. Overlapping boxes, such as a sign at its lamp post, have no exact order: the farthest comes
    first.

    Args:
        boxes: (N, 4) x0, z0, x1, z1 in meters; the camera is at the origin.

    Returns:
        Indices of the boxes in drawing order.
    """
    x0, z0, x1, z1 = boxes.T
    # Boxes beside or behind the camera are visible at their front edge, if at all.
    near, far = np.maximum(z0, 0.05), np.maximum(z1, 0.05)
    leftmost, rightmost = x0 / np.where(x0 < 0, near, far), x1 / np.where(x1 > 0, near, far)
    together = (leftmost[:, None] < rightmost) & (leftmost < rightmost[:, None])
    beyond = z0[:, None] >= z1  # [a, b]: a lies beyond b
    outside = ((x0[:, None] >= x1) & (x0[:, None] >= 0)) | ((x1[:, None] <= x0) & (x1[:, None] <= 0))
    hidden = together & (beyond | (outside & ~beyond.T))
    hidden &= ~(hidden & hidden.T)
    nearness = np.where(z1 > 0, (z0 + z1) / 2, z1)
    waiting = hidden.T.sum(axis=1)  # number of boxes that must be drawn before each
    order: list[int] = []
    left = np.ones(len(boxes), dtype=bool)
    for _ in range(len(boxes)):
        free = left & (waiting == 0)
        candidates = np.flatnonzero(free if free.any() else left)
        chosen = int(candidates[np.argmax(nearness[candidates])])
        order.append(chosen)
        left[chosen] = False
        waiting -= hidden[chosen]
    return order


def _in_view(scene: Scene) -> tuple[list[Thing], Array]:
    """Return the objects in the view, and their footprints (T, 4, 2): corners as world x and z in meters.

    The farthest objects are dropped if there are more parts than `MAX_REGIONS` allows.
    """
    camera, things = scene.camera, scene.things
    low, high, scale, position = (
        np.array([pick(thing) for thing in things]).reshape(-1, 3)
        for pick in (lambda t: t.mesh.low, lambda t: t.mesh.high, lambda t: t.scale, lambda t: t.position)
    )
    low, high = low * scale, high * scale
    x = np.stack([low[:, 0], high[:, 0], high[:, 0], low[:, 0]], axis=1)
    z = np.stack([low[:, 2], low[:, 2], high[:, 2], high[:, 2]], axis=1)
    yaw = np.array([thing.yaw for thing in things])[:, None]
    footprints = np.stack([x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)], axis=2)
    footprints += position[:, None, ::2]

    corners = np.zeros((len(things), 8, 3))
    corners[:, :4, ::2] = corners[:, 4:, ::2] = footprints
    corners[:, 4:, 1] = high[:, 1:2]
    viewed = camera.view(corners.reshape(-1, 3)).reshape(-1, 8, 3)
    limit = viewed[..., 2] * ((camera.size[1] / 2 + 4) / camera.focal)
    outside = (viewed[..., 0] > limit).all(axis=1) | (viewed[..., 0] < -limit).all(axis=1)
    visible = np.flatnonzero(~outside & (viewed[..., 2].max(axis=1) > 1.0))
    nearest_first = visible[np.argsort(viewed[visible, :, 2].min(axis=1), kind="stable")]
    numbered = np.cumsum([len(things[i].labels) for i in nearest_first]) < MAX_REGIONS - _GROUND_REGIONS
    kept = nearest_first[numbered]
    return [things[i] for i in kept], footprints[kept]


def _shadows(canvas: Canvas, things: list[Thing], footprints: Array) -> npt.NDArray[np.uint8]:
    """Return (H, W) uint8, strength of the shadows on the ground: from the sun, and directly below objects."""
    mask = np.zeros(canvas.camera.size, dtype=np.uint8)
    lighting = canvas.lighting
    direct = float(lighting.sun_color.mean() / (lighting.sun_color + lighting.ambient).mean())
    cast = int(255 * min(1.0, 2.2 * direct))
    slope = -lighting.sun[[0, 2]] / max(float(lighting.sun[1]), 0.3)
    outlines, strengths = [], []
    near = footprints[:, :, 1].min(axis=1)
    for thing, corners, distance in zip(things, footprints, near, strict=True):
        if cast > 20 and distance < 60:
            height = min(float(thing.mesh.high[1] * thing.scale[1]), 9.0)
            hull = cv2.convexHull(np.concatenate([corners, corners + slope * height]).astype(np.float32))
            outlines.append(hull[:, 0].astype(np.float64))
            strengths.append(cast)
    for thing, corners, distance in zip(things, footprints, near, strict=True):
        if distance < 45 and thing.labels[0] not in _NO_CONTACT_SHADOW:
            outlines.append(corners)
            strengths.append(255)
    if outlines:
        for pixels, strength in zip(canvas.ground_pixels(outlines), strengths, strict=True):
            if len(pixels) > 2:
                cv2.fillPoly(mask, [pixels], strength, cv2.LINE_8, SHIFT)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.2), dtype=np.uint8)


def _depths(camera: Camera, footprints: Array) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Return plane and bounds of the inverse depth of each object, as in `Region`.

    A compact object has one depth. A long object has the depth of the long side that faces the camera.
    """
    ground = np.zeros((*footprints.shape[:2], 3))
    ground[:, :, ::2] = footprints
    depths = camera.view(ground.reshape(-1, 3))[:, 2].reshape(-1, 4)
    nearest, farthest = np.maximum(depths.min(axis=1), 0.5), np.maximum(depths.max(axis=1), 0.6)

    ends = np.roll(ground, -1, axis=1)
    along, middles = ends - ground, np.linalg.norm(ends + ground, axis=2)
    lengths = np.linalg.norm(along, axis=2)
    side = np.argmin(np.where(lengths > 0.9 * lengths.max(axis=1, keepdims=True), middles, np.inf), axis=1)
    rows = np.arange(len(side))
    normals = along[rows, side] @ np.array([(0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0)])
    planes = camera.inverse_depth(ground[rows, side], normals)
    compact = farthest - nearest < 3.0
    planes[compact] = 0.0
    planes[compact, 0] = 2.0 / (nearest + farthest)[compact]
    bounds = np.stack([1 / farthest, 1 / nearest], axis=1)
    return [tuple(row) for row in planes.tolist()], [tuple(row) for row in bounds.tolist()]


def _inverse_depth(canvas: Canvas, numbers: npt.NDArray[np.uint8]) -> Field:
    """Return (H, W) 1/depth from the plane of the region of each pixel; 0 in the sky."""
    a, b, c, low, high = (
        look_up(numbers, values)
        for values in zip(*((*region.plane, *region.bounds) for region in canvas.regions), strict=True)
    )
    height, width = numbers.shape
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    b *= columns
    c *= rows
    return np.clip(a + b + c, low, high)


def _objects(canvas: Canvas, things: list[Thing]) -> tuple[SceneObject, ...]:
    regions = canvas.pixels[:, :, 3]
    areas = np.bincount(regions.ravel(), minlength=len(canvas.regions))
    boxes = ndimage.find_objects(regions)
    found = []
    for number, region in enumerate(canvas.regions):
        if region.thing < 0 or not areas[number]:
            continue
        rows, columns = boxes[number - 1]
        box = (columns.start, rows.start, columns.stop, rows.stop)
        thing = things[region.thing]
        found.append(SceneObject(region.label, thing.noun, box, int(areas[number]), 1 / region.bounds[1], region.thing))
    return tuple(sorted(found, key=lambda item: item.distance))
