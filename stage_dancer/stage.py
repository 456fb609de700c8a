"""Draw one frame and one label: the stage, and the person on it, as the camera sees them.

Places are in metres, as in choreography.py. Labels have HEIGHT x WIDTH pixels, and frames `zoom` times as many in each
direction; `zoom` is a whole number, 1 for the dataset. The centres of pixels are at halves.

A left limb has the same colour in a label whichever way the dancer faces. The two sides differ only in tint: the facing
is plain from the front and from the back, and in profile only the past tells it. Shadow, exposure, hair and the turn of
the head are in no label.
"""

import math

import numpy as np

from media.capsules import rasterise_capsule
from poses.labels import RADIUS, draw_lines

from .choreography import INDEX, ease

HEIGHT, WIDTH = 128, 256  # pixels

CAMERA_HEIGHT, CAMERA_DISTANCE = 1.25, 5.0  # metres: its y and its z
FOCAL_LENGTH = 312.0  # pixels
HORIZON_ROW = 42.0
EDGE = 3  # pixels of the dark edge around a limb
BACK = -2.4  # z in metres where the floor ends and the curtain begins


def project(points, zoom=1):
    """Project points [..., 3] in metres to pixels [..., 3]: column, row, and nearness at the same scale.

    Also returns that scale, [...], in pixels per metre.
    """
    scale = zoom * FOCAL_LENGTH / (CAMERA_DISTANCE - points[..., 2]).clip(0.5)
    column = zoom * WIDTH / 2 + points[..., 0] * scale
    row = zoom * HORIZON_ROW + (CAMERA_HEIGHT - points[..., 1]) * scale
    return np.stack([column, row, points[..., 2] * scale], axis=-1), scale


def half_width_seen(z):
    """Return the x in metres at which the picture ends at depth z."""
    return WIDTH / 2 * (CAMERA_DISTANCE - z) / FOCAL_LENGTH


# Unlit red, green and blue in 0 ... 1.
_COLOURS = {
    "skin": (0.96, 0.76, 0.62), "hair": (0.78, 0.36, 0.13), "top": (0.98, 0.95, 0.88),
    "sleeve": (0.45, 0.93, 0.86), "sash": (0.90, 0.20, 0.34), "trousers": (1.00, 0.78, 0.36),
    "shoe": (0.95, 0.95, 0.98), "eye": (0.12, 0.08, 0.10), "lip": (0.75, 0.25, 0.25),
}


def _both(start, end, *rest):
    return [(f"{side}_{start}", f"{side}_{end}", *rest) for side in ("left", "right")]


# Solid parts of the body: from, to, radius in metres at each, colour.
SOLIDS = [
    *_both("heel", "toe", 0.048, 0.040, "shoe"),
    *_both("knee", "ankle", 0.084, 0.112, "trousers"),
    *_both("hip", "knee", 0.122, 0.090, "trousers"),
    ("left_hip", "right_hip", 0.118, 0.118, "trousers"),
    ("left_flank", "right_flank", 0.122, 0.122, "sash"),
    ("left_breast", "waist", 0.100, 0.118, "top"),
    ("right_breast", "waist", 0.100, 0.118, "top"),
    ("left_breast", "right_breast", 0.100, 0.100, "top"),
    ("left_shoulder", "right_shoulder", 0.064, 0.064, "top"),
    ("neck", "head", 0.056, 0.056, "skin"),
    ("head", "mouth", 0.104, 0.054, "skin"),
    ("head", "crown", 0.104, 0.100, "skin"),
    ("crown", "nape", 0.114, 0.120, "hair"),
    ("nape", "tail", 0.075, 0.030, "hair"),
    *_both("eye", "eye", 0.016, 0.016, "eye"),
    ("mouth", "mouth", 0.020, 0.020, "lip"),
    *_both("shoulder", "elbow", 0.084, 0.070, "sleeve"),
    *_both("elbow", "wrist", 0.048, 0.040, "skin"),
    *_both("wrist", "hand", 0.040, 0.046, "skin"),
]

_CASTING = [[INDEX[start], INDEX[end]] for start, end, *_ in SOLIDS if start != end]  # solids that cast a shadow
_CASTING_RADII = np.array([solid[2:4] for solid in SOLIDS if solid[0] != solid[1]], np.float32)
_LIGHT = (-0.42, -0.62, 0.66)  # direction of the lamp: column, row, nearness
_SHADOW_SLANT = 0.35, -0.30  # metres that the shadow moves in x and z per metre of height


class Stage:
    """Prepare the empty lit stage; made once, drawn on for every frame.

    picture: float32 [3, H, W] in 0 ... 1. floor_row: first row of the floor. floor_x, floor_z: the place on the floor
    in metres at each pixel from that row on, float32 [rows, W].
    """

    def __init__(self, zoom=1):
        rows, columns = (np.mgrid[0:zoom * HEIGHT, 0:zoom * WIDTH] + 0.5) / zoom  # in pixels of the dataset
        self.floor_row = zoom * int(HORIZON_ROW + CAMERA_HEIGHT * FOCAL_LENGTH / (CAMERA_DISTANCE - BACK))
        depth = CAMERA_HEIGHT * FOCAL_LENGTH / (rows - HORIZON_ROW).clip(1)
        self.floor_x = ((columns - WIDTH / 2) * depth / FOCAL_LENGTH)[self.floor_row:].astype(np.float32)
        self.floor_z = (CAMERA_DISTANCE - depth)[self.floor_row:].astype(np.float32)
        picture = _curtain(rows, columns)
        picture[self.floor_row:] = _floor(self.floor_x, self.floor_z)
        vignette = 1 - 0.45 * (((columns / WIDTH - 0.5) * 1.7) ** 2 + ((rows / HEIGHT - 0.5) * 0.9) ** 2)
        # Channels first: numpy is several times faster with long rows innermost.
        self.picture = (picture * vignette[..., None]).transpose(2, 0, 1).astype(np.float32, order="C")


def _curtain(rows, columns):
    """Paint the curtain, [H, W, 3], at pixels with these rows and columns."""
    x = columns / WIDTH
    swayed = x + 0.006 * np.sin(rows / 19.0)
    folds = 0.5 + 0.22 * (np.sin(2 * np.pi * 17 * swayed) + 0.5 * np.sin(2 * np.pi * 41 * swayed + 1.0))
    glow = np.exp(-((x - 0.5) / 0.33) ** 2 - ((rows / HEIGHT - 0.62) / 0.55) ** 2)
    level = (0.45 + 0.75 * folds) * (0.42 + 0.75 * glow)
    return level[..., None] * (0.16, 0.13, 0.30)


def _floor(x, z):
    """Paint the floorboards, [H, W, 3], at these places in metres."""
    board = np.floor(x / 0.24)
    along = np.floor(z / 1.7 + (board * 0.618) % 1)
    tone = 0.9 + 0.2 * ((np.sin(board * 12.9898 + along * 78.233) * 43758.5453) % 1)
    grain = 1 + 0.04 * np.sin(x * 42 + 3 * np.sin(z * 4 + board))
    from_seam = 0.24 * (0.5 - np.abs((x / 0.24) % 1 - 0.5))  # metres
    seam = (1.1 - from_seam * FOCAL_LENGTH / (CAMERA_DISTANCE - z)).clip(0, 1)
    pool = np.exp(-(x / 1.8) ** 2 - ((z + 0.1) / 1.7) ** 2)
    level = tone * grain * (1 - 0.3 * seam) * (0.32 + 0.95 * pool)
    edge = np.clip((z - BACK) / 0.5, 0.45, 1)
    return (level * edge)[..., None] * (0.40, 0.25, 0.20)


def draw_frame(points, exposure, stage):
    """Draw one frame, uint8 [H, W, 3], of points [P, 3] on a Stage, at its zoom; exposure is a factor of brightness."""
    canvas = stage.picture.copy()
    _cast_shadow(canvas, points, stage)
    draw_person(canvas, points)
    return _to_uint8(canvas * (255 * exposure))


def draw_label(points):
    """Draw one label, uint8 [H, W, 3]: thin lines on white between the projected points [P, 3]."""
    pixels, _ = project(points.astype(np.float32))
    return draw_lines({name: pixels[index] for name, index in INDEX.items()}, (HEIGHT, WIDTH), RADIUS)


def _to_uint8(canvas):
    """Convert a canvas of 0 ... 255, float [3, H, W], to uint8 [H, W, 3]."""
    return (canvas + 0.5).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def draw_person(canvas, points):
    """Draw a person, points [P, 3], on `canvas`, float32 [3, H, W], in place; nearer solids cover those behind.

    Returns the fraction of each pixel that the person covers, float32 [H, W].
    """
    size = canvas.shape[1:]
    zoom = size[0] // HEIGHT
    pixels, scale = project(points.astype(np.float32), zoom)
    nearness = np.full(size, -1e6, np.float32)
    cover = np.zeros(size, np.float32)
    far_to_near = sorted(SOLIDS, key=lambda solid: pixels[INDEX[solid[0]], 2] + pixels[INDEX[solid[1]], 2])
    for start, end, radius, end_radius, colour in far_to_near:
        start, end = INDEX[start], INDEX[end]
        box, across, down, along, inside = _capsule(
            pixels[start], pixels[end], radius * scale[start], end_radius * scale[end], size, zoom)
        out = np.sqrt((1 - across * across - down * down).clip(0))
        light = 0.56 + 0.60 * (across * _LIGHT[0] + down * _LIGHT[1] + out * _LIGHT[2]).clip(0)
        near = pixels[start, 2] + along * (pixels[end, 2] - pixels[start, 2]) + out * radius * scale[start]
        gap, region = near - nearness[box], canvas[(..., *box)]
        if colour == "top":
            in_front = gap / (8 * zoom)  # the solids of the torso melt into each other
        else:
            in_front = gap / (1.5 * zoom) + 0.5
            # A limb before a surface of its own colour would not show without a dark edge around it.
            behind = (gap / (0.12 * scale[start]) - 1).clip(0, 1) * cover[box]
            region *= 1 - 0.45 * (1 + inside / (EDGE * zoom)).clip(0, 1) * behind
        in_front = np.maximum(in_front, 2 - 2 * cover[box]).clip(0, 1)  # the soft edge of a nearer solid shows it too
        alpha = (inside + 0.5).clip(0, 1) * in_front
        region += alpha * (light * np.array(_COLOURS[colour], np.float32)[:, None, None] - region)
        np.maximum(nearness[box], near, out=nearness[box], where=inside > 0)
        np.maximum(cover[box], alpha, out=cover[box])
    return cover


def _capsule(start, end, radius, end_radius, size, zoom):
    """Rasterise a tapering capsule between two projected points; returns its box and float [h, w] arrays over the box.

    The box is two slices, empty off the picture. The arrays: column and row offset from the axis by the radius (for
    shading), place along the axis in 0 ... 1, and distance inside the outline in pixels.
    """
    box, across, down, beyond, thickness, inside = rasterise_capsule(
        start, end, radius, end_radius, size, margin=EDGE * zoom)
    line_x, line_y = end[:2] - start[:2]
    # Shade the ends of a long capsule nearly like its sides: two joined capsules then show no seam.
    length = math.sqrt(line_x * line_x + line_y * line_y + np.float32(1e-6))
    roundness = np.float32(np.clip(1.3 - 0.5 * length / radius, 0.2, 1))
    along = beyond.clip(0, 1)
    shaded = beyond + roundness * (along - beyond)
    across, down = (across - shaded * line_x) / thickness, (down - shaded * line_y) / thickness
    return box, across, down, along, inside


def _cast_shadow(canvas, points, stage):
    """Darken the floor where the body blocks the lamp; the shadow of a higher part is softer."""
    ends = points[_CASTING].astype(np.float32)  # [solid, end, 3]
    x = ends[..., 0] + _SHADOW_SLANT[0] * ends[..., 1]
    z = ends[..., 2] + _SHADOW_SLANT[1] * ends[..., 1]
    soft = 0.05 + 0.16 * ends[..., 1].sum(axis=1)
    margin = 0.6
    rows = slice(*np.searchsorted(stage.floor_z[:, 0], (z.min() - margin, z.max() + margin)))
    if rows.start == rows.stop:
        return
    # These columns fit the farthest row. Nearer rows show less of the floor, so near the picture's side a shadow is cut
    # off. Fixing this would change the images, so it waits for the next VERSION.
    columns = slice(*np.searchsorted(stage.floor_x[rows.start], (x.min() - margin, x.max() + margin)))
    floor_x, floor_z = stage.floor_x[rows, columns], stage.floor_z[rows, columns]
    light = np.ones(floor_x.shape, np.float32)
    for (start_x, end_x), (start_z, end_z), (radius, end_radius), blur in zip(x, z, _CASTING_RADII, soft):
        line_x, line_z = end_x - start_x, end_z - start_z
        across, deep = floor_x - start_x, floor_z - start_z
        along = ((across * line_x + deep * line_z) / (line_x**2 + line_z**2 + 1e-6)).clip(0, 1)
        distance = np.sqrt((across - along * line_x) ** 2 + (deep - along * line_z) ** 2)
        light *= 1 - 0.36 * ease(0.5 - (distance - radius - along * (end_radius - radius)) / blur)
    canvas[:, stage.floor_row:][:, rows, columns] *= light
