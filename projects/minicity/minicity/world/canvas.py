"""Drawing with exact labels, in one buffer of four channels: RGB and the number of the region.

OpenCV writes the region with the color, so labels, depths and objects agree with the image in every pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from minicity.world.camera import NEAR, Array, Camera, clip_near
from minicity.world.classes import Label
from minicity.world.mesh import Mesh

Color = tuple[float, float, float]
Palette = Mapping[str, Color]

MAX_REGIONS = 255
SHIFT = 4
"""Number of fractional bits of fixed-point coordinates in OpenCV."""
_FAR_PIXEL = 4e4  # larger fixed-point coordinates would overflow in OpenCV
_MIN_PIXELS = 1.1  # smaller primitives are left out
_BOTH_SIDES = 0.6  # factor of the sun on two-sided primitives


@dataclass(frozen=True)
class Region:
    """A region of the canvas.

    Attributes:
        label: class.
        thing: index of the object; -1 for sky and ground.
        plane: (a, b, c) with 1/depth = a + b x + c y at pixel (x, y).
        bounds: lowest and highest 1/depth, to which the plane is clipped.
    """

    label: Label
    thing: int
    plane: tuple[float, ...]
    bounds: tuple[float, ...]


@dataclass(frozen=True)
class Lighting:
    """Light on surfaces.

    Attributes:
        sun: (3,) unit vector towards the sun.
        sun_color: (3,) RGB factors of the sun.
        ambient: (3,) RGB factors of the ambient light.
        beam: strength of the headlights of the camera's own car.
        beam_reach: distance in meters at which the headlights have faded to 1/e.
        lights_on: whether emissive slots shine.
        snow: snow cover of surfaces that face upwards, 0..1.
    """

    sun: Array
    sun_color: Array
    ambient: Array
    beam: float
    beam_reach: float
    lights_on: bool
    snow: float


@dataclass(frozen=True)
class Placed:
    """A mesh with its pose, colors and regions.

    Attributes:
        mesh: the mesh.
        position: world coordinates in meters.
        yaw: radians; positive turns the forward direction towards +x.
        scale: factors along the axes of the mesh.
        palette: RGB 0..255 by name of the slot.
        regions: number of the region of each part of the mesh.
    """

    mesh: Mesh
    position: tuple[float, float, float]
    yaw: float
    scale: tuple[float, float, float]
    palette: Palette
    regions: tuple[int, ...]


@dataclass
class Canvas:
    """The image while it is drawn.

    Attributes:
        camera: camera.
        lighting: light on surfaces.
        pixels: (H, W, 4) uint8, RGB and the number of the region.
        regions: regions by number; region 0 is the sky.
    """

    camera: Camera
    lighting: Lighting
    pixels: npt.NDArray[np.uint8] = field(init=False)
    regions: list[Region] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros((*self.camera.size, 4), dtype=np.uint8)
        self.regions = [Region(Label.SKY, -1, (0.0, 0.0, 0.0), (0.0, 0.0))]

    def region(self, label: Label, thing: int, plane: tuple[float, ...], bounds: tuple[float, ...]) -> int:
        """Add a region.

        Returns:
            The number of the region.

        Raises:
            ValueError: there are `MAX_REGIONS` regions already.
        """
        if len(self.regions) >= MAX_REGIONS:
            raise ValueError(f"a canvas has at most {MAX_REGIONS} regions")
        self.regions.append(Region(label, thing, plane, bounds))
        return len(self.regions) - 1

    def ground_pixels(self, outlines: Sequence[Array]) -> list[npt.NDArray[np.int32]]:
        """Project polygons on the ground and clip them at the near plane.

        Args:
            outlines: polygons, each (N, 2) world x and z in meters.

        Returns:
            Polygons, each (M, 2) in fixed-point pixels; M may be 0.
        """
        lengths = [len(outline) for outline in outlines]
        points = np.zeros((sum(lengths), 3))
        points[:, ::2] = np.concatenate(outlines)
        viewed = self.camera.view(points)
        near = viewed[:, 2] < NEAR
        fixed = _fixed(self.camera.to_pixels(np.where(near[:, None], (0.0, 0.0, NEAR), viewed)))
        shapes, start = [], 0
        for length in lengths:
            stop = start + length
            if near[start:stop].any():
                clipped = clip_near(viewed[start:stop])
                shapes.append(_fixed(self.camera.to_pixels(clipped)) if len(clipped) else np.empty((0, 2), np.int32))
            else:
                shapes.append(fixed[start:stop])
            start = stop
        return shapes

    def draw(self, placed: Sequence[Placed]) -> None:
        """Draw meshes in the given order.

        All meshes are transformed and lit together: a scene has thousands of small primitives, and an array operation
        on all of them costs little more than one on a few.
        """
        if not placed:
            return
        poses = _Poses.of(placed, self.camera)
        prims = _Primitives.of([item.mesh for item in placed])
        viewed = np.concatenate([item.mesh.points @ m for item, m in zip(placed, poses.matrices, strict=True)])
        viewed -= poses.eyes_viewed[prims.thing_of_point]
        depths = viewed[:, 2]
        first = np.searchsorted(prims.thing_of_point, np.arange(len(placed)))
        nearest = np.minimum.reduceat(depths, first)
        depth = np.maximum((nearest + np.maximum.reduceat(depths, first)) / 2, 2.0)

        safe = np.where((depths < NEAR)[:, None], (0.0, 0.0, NEAR), viewed)
        pixels = self.camera.to_pixels(safe)
        crosses = np.minimum.reduceat(depths, prims.starts) < NEAR
        low, high = np.minimum.reduceat(pixels, prims.starts), np.maximum.reduceat(pixels, prims.starts)
        height, width = self.camera.size
        inside = (high >= 0).all(axis=1) & (low <= (width, height)).all(axis=1)
        large = (high - low).max(axis=1) > _MIN_PIXELS
        thing = prims.thing
        tall = self.camera.focal / np.maximum(nearest, 2.0) * poses.extents
        detailed = tall[thing] >= prims.fine
        outward = (prims.normals * poses.local_eyes[thing]).sum(axis=1) > prims.offsets
        seen = (outward | prims.two_sided) & detailed & (crosses | (inside & large))

        order = np.flatnonzero(seen)
        distance = ((prims.piece_centers - poses.local_eyes[thing]) ** 2).sum(axis=1)
        order = order[np.lexsort((order, -distance[order], thing[order]))]
        colors = self._colors(placed, poses, prims, depth)[order].tolist()
        thickness = np.maximum(np.rint(prims.widths * self.camera.focal / depth[thing]), 1)[order].astype(int).tolist()
        fixed = _fixed(pixels)
        canvas = self.pixels
        rows = zip(
            prims.starts[order].tolist(),
            prims.stops[order].tolist(),
            prims.corners[order].tolist(),
            (prims.widths > 0)[order].tolist(),
            crosses[order].tolist(),
            colors,
            thickness,
            strict=True,
        )
        for start, stop, corners, is_stroke, is_cut, color, thick in rows:
            shape = fixed[start:stop]
            if is_cut:
                # Strokes and rows of windows that reach behind the camera lie outside the image.
                if stop - start > corners or is_stroke:
                    continue
                kept = clip_near(viewed[start:stop])
                if len(kept) < 3:
                    continue
                shape = _fixed(self.camera.to_pixels(kept))
            shapes = [shape] if len(shape) == corners or is_cut else list(shape.reshape(-1, corners, 2))
            if is_stroke:
                cv2.polylines(canvas, shapes, False, color, thick, cv2.LINE_8, SHIFT)
            else:
                cv2.fillPoly(canvas, shapes, color, cv2.LINE_8, SHIFT)

    def _colors(self, placed: Sequence[Placed], poses: "_Poses", prims: "_Primitives", depth: Array) -> Array:
        """Return (F, 4) the lit color and the region of each primitive."""
        palette = np.array([item.palette[name] for item in placed for name in item.mesh.slots])
        base, thing, light = palette[prims.slot], prims.thing, self.lighting
        if light.snow:
            white = (light.snow * prims.snowy * np.clip(2.5 * prims.normals[:, 1] - 0.75, 0, 1))[:, None]
            base = base + white * (238.0 - base)
        sun = poses.rotations @ light.sun
        facing = np.maximum((prims.normals * sun[thing]).sum(axis=1), 0.0)
        facing[prims.two_sided] = _BOTH_SIDES
        ambient = light.ambient + (light.beam * np.exp(-depth / light.beam_reach))[:, None]
        lit = base * (ambient[thing] + facing[:, None] * light.sun_color)
        if light.lights_on:
            lit = np.where(prims.emissive[:, None], base, lit)
        regions = np.array([number for item in placed for number in item.regions])
        firsts = np.cumsum([0] + [len(item.regions) for item in placed[:-1]])
        rows = np.empty((len(lit), 4))
        rows[:, :3] = np.minimum(lit, 255.0)
        rows[:, 3] = regions[firsts[thing] + prims.parts]
        return rows


@dataclass(frozen=True)
class _Poses:
    """Poses of T placed meshes.

    Attributes:
        rotations: (T, 3, 3) rotations from the world frame to the frame of the mesh.
        matrices: (T, 3, 3) from the frame of the mesh to the camera frame, before `eyes_viewed` is subtracted.
        eyes_viewed: (T, 3) position of the camera relative to the mesh, in the camera frame.
        local_eyes: (T, 3) position of the camera in the frame of the mesh.
        extents: (T,) larger of height and width in meters.
    """

    rotations: Array
    matrices: Array
    eyes_viewed: Array
    local_eyes: Array
    extents: Array

    @classmethod
    def of(cls, placed: Sequence[Placed], camera: Camera) -> "_Poses":
        yaw = np.array([item.yaw for item in placed])
        scale = np.array([item.scale for item in placed])
        eyes = np.array([0.0, camera.height, 0.0]) - np.array([item.position for item in placed])
        rotations = np.zeros((len(placed), 3, 3))
        rotations[:, 0, 0] = rotations[:, 2, 2] = np.cos(yaw)
        rotations[:, 2, 0], rotations[:, 0, 2], rotations[:, 1, 1] = np.sin(yaw), -np.sin(yaw), 1.0
        size = np.array([item.mesh.high - item.mesh.low for item in placed]) * scale
        return cls(
            rotations=rotations,
            matrices=(scale[:, :, None] * rotations) @ camera.axes,
            eyes_viewed=eyes @ camera.axes,
            local_eyes=(rotations @ eyes[:, :, None])[:, :, 0] / scale,
            extents=np.maximum(size[:, 0], size[:, 1]),
        )


@dataclass(frozen=True)
class _Primitives:
    """Concatenated primitives of several meshes, with the attributes of `Mesh`.

    `thing` and `thing_of_point` are indices of the mesh, and `slot` indexes the concatenated palettes.
    """

    thing: npt.NDArray[np.int64]
    thing_of_point: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    corners: npt.NDArray[np.int64]
    slot: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    normals: Array
    offsets: Array
    widths: Array
    piece_centers: Array
    two_sided: npt.NDArray[np.bool_]
    fine: Array
    emissive: npt.NDArray[np.bool_]
    snowy: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, meshes: Sequence[Mesh]) -> "_Primitives":
        counts = [len(mesh.starts) for mesh in meshes]
        points = [len(mesh.points) for mesh in meshes]
        thing = np.repeat(np.arange(len(meshes)), counts)
        first_points = np.cumsum([0, *points])
        first_slots = np.cumsum([0] + [len(mesh.slots) for mesh in meshes[:-1]])
        starts = np.concatenate([mesh.starts for mesh in meshes]) + first_points[thing]
        same = {
            name: np.concatenate([getattr(mesh, name) for mesh in meshes])
            for name in (
                "corners",
                "parts",
                "normals",
                "offsets",
                "widths",
                "piece_centers",
                "two_sided",
                "fine",
                "emissive",
                "snowy",
            )
        }
        return cls(
            thing=thing,
            thing_of_point=np.repeat(np.arange(len(meshes)), points),
            starts=starts,
            stops=np.append(starts[1:], first_points[-1]),
            slot=np.concatenate([mesh.slot for mesh in meshes]) + first_slots[thing],
            **same,
        )


def _fixed(pixels: Array) -> npt.NDArray[np.int32]:
    """Convert pixels to OpenCV's fixed-point coordinates, rounded for points inside the image."""
    return (np.minimum(np.maximum(pixels, -_FAR_PIXEL), _FAR_PIXEL) * (1 << SHIFT) + 0.5).astype(np.int32)
