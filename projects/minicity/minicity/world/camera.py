"""Pinhole camera that looks along the street.

World frame: origin on the ground below the camera; x to the right, y up, z along the street; meters.
Camera frame: x to the right, y down, z depth; meters.
Pixels: x to the right, y down; (0, 0) is the center of the first pixel.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

NEAR = 0.4
"""Depth of the near plane in meters. Nothing closer is drawn."""


@dataclass(frozen=True)
class Camera:
    """Position, orientation and intrinsics of the camera.

    Attributes:
        height: height above the ground in meters.
        pitch: radians; positive looks down.
        yaw: radians; positive looks to the right.
        roll: radians.
        focal: focal length in pixels.
        size: (H, W) of the image in pixels.
    """

    height: float
    pitch: float
    yaw: float
    roll: float
    focal: float
    size: tuple[int, int]

    @cached_property
    def center(self) -> Array:
        """Principal point (x, y) in pixels."""
        return np.array([(self.size[1] - 1) / 2, (self.size[0] - 1) / 2])

    @cached_property
    def axes(self) -> Array:
        """(3, 3) matrix whose columns are the camera's x, y (down) and z (viewing direction) in world coordinates."""
        cos, sin = math.cos, math.sin
        forward = np.array([sin(self.yaw) * cos(self.pitch), -sin(self.pitch), cos(self.yaw) * cos(self.pitch)])
        right = np.array([cos(self.yaw), 0.0, -sin(self.yaw)])
        down = np.cross(forward, right)
        down = down if down[1] < 0 else -down
        rolled_right = cos(self.roll) * right + sin(self.roll) * down
        rolled_down = cos(self.roll) * down - sin(self.roll) * right
        return np.stack([rolled_right, rolled_down, forward], axis=1)

    def view(self, points: Array) -> Array:
        """Transform world points (N, 3) to the camera frame (N, 3)."""
        return (points - (0.0, self.height, 0.0)) @ self.axes

    def to_pixels(self, viewed: Array) -> Array:
        """Project points (N, 3) in the camera frame, with positive depth, to pixels (N, 2)."""
        return viewed[:, :2] * (self.focal / viewed[:, 2:]) + self.center

    def inverse_depth(self, points: Array, normals: Array) -> Array:
        """Return the inverse depth of planes as an affine function of the pixel.

        With n.P = d in the camera frame and P = depth * ray, 1/depth = n.ray / d.

        Args:
            points: (N, 3) a world point on each plane.
            normals: (N, 3) normal of each plane, any length.

        Returns:
            (N, 3) rows (a, b, c) with 1/depth = a + b x + c y at pixel (x, y); zeros for a plane through the camera.
        """
        turned = normals @ self.axes
        distance = (self.view(points) * turned).sum(axis=1)
        scaled = turned / np.where(np.abs(distance) < 1e-6, np.inf, distance)[:, None]
        slopes = scaled[:, :2] / self.focal
        return np.column_stack([scaled[:, 2] - slopes @ self.center, slopes])

    @cached_property
    def ground_plane(self) -> Array:
        """(a, b, c) of the ground, as returned by `inverse_depth`."""
        return np.asarray(self.inverse_depth(np.zeros((1, 3)), np.array([(0.0, 1.0, 0.0)]))[0])

    @cached_property
    def ground_inverse_depth(self) -> npt.NDArray[np.float32]:
        """(H, W) float32, 1/depth of the ground plane at every pixel; 0 or less above the horizon."""
        a, b, c = self.ground_plane
        height, width = self.size
        rows = np.arange(height, dtype=np.float32)[:, None]
        columns = np.arange(width, dtype=np.float32)[None]
        return np.float32(a) + np.float32(b) * columns + np.float32(c) * rows

    @cached_property
    def horizon(self) -> float:
        """Row of the horizon in the middle column of the image; it may lie outside the image."""
        return float(self.center[1] - self.focal * math.tan(self.pitch))


def clip_near(viewed: Array) -> Array:
    """Clip a polygon (N, 3) in the camera frame at depth `NEAR`; return (M, 3), where M may be 0."""
    ends = np.concatenate([viewed[1:], viewed[:1]])
    inside, end_inside = viewed[:, 2] >= NEAR, ends[:, 2] >= NEAR
    crosses = inside != end_inside
    step = ends - viewed
    t = np.where(crosses, (NEAR - viewed[:, 2]) / np.where(crosses, step[:, 2], 1.0), 0.0)
    # Each corner that is kept is followed by the point where its edge crosses the plane, if there is one.
    both = np.stack([viewed, viewed + t[:, None] * step], axis=1).reshape(-1, 3)
    return both[np.stack([inside, crosses], axis=1).ravel()]
