"""The built-in dataset "stage dancer": one person dances on a lit stage, with a label for every frame.

Sections: skeleton and choreography, projection, rendering, dataset writing. The world is in metres,
x to the right of the picture, y up, z towards the camera; frames pass at 30 a second. Angles are
radians; a person with yaw 0 faces the camera and has its left side at larger x. T frames of a
sequence hold the P points of POINTS: float [T, P, 3].

Labels keep the anatomical sides: a left limb has its colour whichever way the dancer faces. As the
two sides differ only in tint, the way faced is plain from the front and the back, and has to be
guessed from the past in profile. Shadow, exposure, hair and the turn of the head are in no label.
"""

import json
import math
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import numpy as np
from tqdm import tqdm

from .errors import UsageError
from .outputs import replacing, write_pixels_csv

VERSION = 1
HEIGHT, WIDTH = 128, 256
FRAMES_PER_SECOND = 30
SEQUENCE_FRAMES = 630

# ---------------------------------------------------------------- skeleton and choreography

_SIDED = ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "heel", "toe",
          "flank", "breast", "eye")
POINTS = ("pelvis", "waist", "neck", "head", "crown", "mouth", "nape", "tail",
          *[f"{side}_{name}" for name in _SIDED for side in ("left", "right")])
INDEX = {name: number for number, name in enumerate(POINTS)}

THIGH, SHIN, ANKLE_HEIGHT, HIP_HALF_WIDTH = 0.41, 0.41, 0.08, 0.095
UPPER_ARM, FOREARM, HAND = 0.28, 0.25, 0.13
STANDING_PELVIS = 0.91
SIDES = (("left", 1), ("right", -1))

# Arm poses in degrees: elevation from hanging, azimuth from sideways to the front, bend of the
# elbow, and the direction of that bend (0 lifts the hand, 90 brings it forward or inward).
ARM_POSES = np.array([
    (15, 20, 25, 100),    # hanging
    (45, 10, 10, 90),     # low V
    (88, 5, 15, 60),      # spread
    (130, 10, 10, 30),    # high V
    (160, 20, 35, 10),    # round over the head
    (62, 62, 65, 100),    # round before the chest
    (45, -15, 100, 165),  # on the hip
    (105, 15, 125, 15),   # hand at the head
    (85, 75, 10, 20),     # reaching forward
    (90, 5, 85, 5),       # forearm upright
    (85, 10, 80, 170),    # forearm hanging
    (50, 75, 105, 90),    # crossed before the body
    (42, -45, 15, 90),    # swept back
])

# Where a lifted ankle is, seen from its hip (outward, up, forward), and how far the chest leans with it.
LEG_POSES = {
    "knee": (0.05, -0.35, 0.28, 0.0),
    "front": (0.02, -0.42, 0.64, -0.15),
    "side": (0.62, -0.46, 0.08, 0.05),
    "back": (0.02, -0.52, -0.56, 0.45),
    "passe": (-0.06, -0.44, 0.10, 0.0),
}


def choreograph(rng, frames):
    """Make up a dance of `frames` frames: the points of the body, float [T, P, 3] in metres."""
    warm_up = 30  # frames before the first one, in which feet find the floor and hair its place
    total = frames + warm_up
    route = _Route(rng, total)
    place, facing = _smooth(route.place(), 5.0), _smooth(route.facing(), 4.5)
    lift, leg_pose = route.lifts()
    speed = np.linalg.norm(np.gradient(place, axis=0), axis=1) * FRAMES_PER_SECOND
    walk = _smooth(np.clip((speed - 0.35) / 0.4, 0, 1), 3.0)  # 0 dancing ... 1 walking

    beat = rng.uniform(16, 20)
    arms = _smooth(np.radians(_keyed(rng, total, beat * rng.uniform(1.1, 1.5), _arm_keys)), 2.5)
    torso = _keyed(rng, total, beat * 1.3, _torso_keys) * (1 - 0.75 * walk[:, None])
    stance = _keyed(rng, total, beat * 3, _stance_keys) * (1 - walk[:, None])
    arms = arms + 0.06 * _noise(rng, total, 8, 14.0).reshape(total, 2, 4)
    torso = torso + 0.03 * _noise(rng, total, 9, 18.0)
    phase = 2 * np.pi * np.arange(total) / beat
    groove = _smooth(np.clip(_noise(rng, total, 1, 40.0)[:, 0] + 0.4, 0, 1), 6.0) * (1 - walk)

    feet, foot_yaw, swing = _step(place, facing, stance, lift)
    body = _turn(1, facing)  # [T, 3, 3]
    supported = lift.sum(axis=1, keepdims=True)
    support = feet[:, ::-1] * lift[..., None]  # the other foot carries
    pelvis = np.stack([place[:, 0], np.zeros(total), place[:, 1]], axis=1)
    pelvis = pelvis * (1 - 0.85 * supported) + 0.85 * support.sum(axis=1)
    pelvis = _smooth(pelvis, 3.0)
    bounce = 0.022 * groove * (1 - np.cos(phase))
    pelvis[:, 1] = STANDING_PELVIS - torso[:, 8].clip(0) * (1 - 0.7 * supported[:, 0]) - bounce
    pelvis[:, 1] = _within_reach(pelvis, body, feet, lift)

    torso[:, 3] += (lift * leg_pose[..., 3]).sum(axis=1) + 0.05 * groove * np.cos(phase)
    points = np.zeros((total, len(POINTS), 3))
    hips = body @ _turn(0, torso[:, 0]) @ _turn(2, torso[:, 1])
    chest = hips @ _turn(1, torso[:, 2]) @ _turn(0, torso[:, 3]) @ _turn(2, torso[:, 4])
    _set_trunk(points, pelvis, hips, chest, torso)
    _set_legs(points, hips, body, feet, foot_yaw, swing, lift, leg_pose)
    arms += (walk * route.arm_swing)[:, None, None] * (_swinging_arms(points, pelvis, body) - arms)
    _set_arms(points, chest, arms)
    return points[warm_up:]


class _Route:
    """The way over the stage, made up act by act: place (x, z), facing (yaw) and lifted legs by frame."""

    def __init__(self, rng, frames):
        self.rng, self.frames = rng, frames
        self.x, self.z, self.yaw = rng.uniform(-0.9, 0.9), rng.uniform(-0.4, 0.3), rng.uniform(-0.5, 0.5)
        self.now = 0.0
        self.places, self.facings, self.legs = [(0, self.x, self.z)], [(0, self.yaw)], []
        self.arm_swing = rng.uniform(0.5, 1.0)
        self.dance()
        rare = [self.leave, self.come_close]
        common = [self.turn_away, self.spin, self.kick, self.walk, self.side_step, self.kick]
        while self.now < frames:
            common = [common[number] for number in rng.permutation(len(common))]
            # Early in each round, so that a sequence of 21 seconds has them both.
            opening = rare + common[:2]
            for act in [opening[number] for number in rng.permutation(4)] + common[2:] + [self.dance]:
                act()

    def place(self):
        return self._interpolated(self.places)

    def facing(self):
        return self._interpolated(self.facings)[:, 0]

    def lifts(self):
        """How far each leg is lifted, [T, 2] in 0 ... 1, and its pose of LEG_POSES, [T, 2, 4]."""
        time = np.arange(self.frames)
        lift, pose = np.zeros((self.frames, 2)), np.zeros((self.frames, 2, 4))
        for start, end, leg, name in self.legs:
            rise = _ease((time - start) / 16) * _ease((end - time) / 16)
            lift[:, leg] += rise
            pose[rise > 0, leg] = LEG_POSES[name]
        return lift, pose

    def _interpolated(self, keys):
        keys = np.array(keys)
        time = np.arange(self.frames)
        return np.stack([np.interp(time, keys[:, 0], column) for column in keys[:, 1:].T], axis=1)

    def _stay(self, seconds):
        self._go(self.x, self.z, seconds)

    def _go(self, x, z, seconds):
        self.now += seconds * FRAMES_PER_SECOND
        self.x, self.z = x, z
        self.places.append((self.now, x, z))

    def _face(self, yaw, seconds, delay=0.0):
        """Turn to `yaw`, beginning `delay` seconds from now; time itself does not move on."""
        start = max(self.now + delay * FRAMES_PER_SECOND, self.facings[-1][0] + 1)
        self.facings += [(start, self.yaw), (start + seconds * FRAMES_PER_SECOND, yaw)]
        self.yaw = yaw

    def _nearest(self, yaw):
        """The angle equal to `yaw` that is the least turn away from the way faced now."""
        return self.yaw + (yaw - self.yaw + math.pi) % (2 * math.pi) - math.pi

    def _front(self):
        return self._nearest(self.rng.uniform(-0.7, 0.7))

    def _lift(self, seconds, leg, name):
        self.legs.append((self.now, self.now + seconds * FRAMES_PER_SECOND, leg, name))

    def dance(self):
        self._face(self._front(), self.rng.uniform(0.7, 1.2), delay=self.rng.uniform(0.3, 1.0))
        self._stay(self.rng.uniform(2.2, 4.0))

    def turn_away(self):
        way = self.rng.choice([-1, 1])
        self._face(self.yaw + way * math.pi + self.rng.uniform(-0.4, 0.4), self.rng.uniform(1.0, 1.5))
        self._stay(self.rng.uniform(2.5, 3.8))
        self._face(self._front(), self.rng.uniform(0.9, 1.4))
        self._stay(1.5)

    def spin(self):
        leg, turns = self.rng.integers(2), self.rng.choice([1, 1, 2])
        seconds = self.rng.uniform(1.1, 1.4) * turns
        self._lift(seconds + 0.9, leg, "passe")
        self._face(self.yaw + self.rng.choice([-1, 1]) * 2 * math.pi * turns, seconds, delay=0.4)
        self._stay(seconds + 1.2)

    def kick(self):
        seconds = self.rng.uniform(1.3, 2.0)
        self._lift(seconds, self.rng.integers(2), self.rng.choice(["knee", "front", "side", "side", "back"]))
        self._stay(seconds + 0.3)

    def side_step(self):
        for _ in range(self.rng.integers(1, 4)):
            step = self.rng.uniform(0.35, 0.7) * (-1 if self.x > 0 else 1)
            self._go(self.x + step, self.z, abs(step) / 0.75)
            self._stay(self.rng.uniform(0.2, 0.5))

    def walk(self):
        self._walk_to(-np.sign(self.x) * self.rng.uniform(0.4, 1.5), self.rng.uniform(-0.5, 0.4))
        self._face(self._front(), 0.8)
        self._stay(0.9)

    def leave(self):
        side = 1 if self.x > 0 else -1
        self._walk_to(side * (half_width_seen(self.z) + 1.15), self.z)
        self._stay(self.rng.uniform(0.2, 1.0))
        self._walk_to(side * self.rng.uniform(0.2, 1.2), self.rng.uniform(-0.4, 0.3))
        self._face(self._front(), 0.8)
        self._stay(0.9)

    def come_close(self):
        self._face(self._front(), 0.7)
        self._go(self.rng.uniform(-0.5, 0.5), self.rng.uniform(1.3, 1.8), self.rng.uniform(1.6, 2.4))
        self.dance()
        if self.rng.random() < 0.5:
            self._walk_to(self.rng.uniform(-0.6, 0.6), self.rng.uniform(-0.5, 0.0))
            self._face(self._front(), 0.8)
            self._stay(0.9)
        else:
            self._go(self.rng.uniform(-0.6, 0.6), self.rng.uniform(-0.5, 0.0), self.rng.uniform(1.8, 2.6))

    def _walk_to(self, x, z):
        """Walk with the face to the way of walking, at 0.9 to 1.2 metres a second."""
        across, ahead = x - self.x, z - self.z
        self._face(self._nearest(math.atan2(across, ahead)), 0.6)
        self._stay(0.25)
        self._go(x, z, math.hypot(across, ahead) / self.rng.uniform(0.9, 1.2))


def _arm_keys(rng, count):
    """Arm angles in degrees, [count, 2, 4]: both arms alike, each its own, or one at rest."""
    keys = ARM_POSES[rng.integers(len(ARM_POSES), size=(count, 2))].astype(float)
    for number, manner in enumerate(rng.random(count)):
        if manner < 0.45:
            keys[number, 1] = keys[number, 0]
        elif manner < 0.65 and number:
            keys[number, rng.integers(2)] = keys[number - 1, rng.integers(2)]
    return keys + rng.normal(0, 1, keys.shape) * (8, 8, 8, 12)


def _swinging_arms(points, pelvis, body):
    """Arm angles of a walk, [T, 2, 4]: each arm goes with the other leg, its elbow bent forward."""
    other = [points[:, INDEX[f"{side}_ankle"]] - pelvis for side in ("right", "left")]
    swing = 0.05 + 1.6 * np.stack([_along(ankle, body[..., 2]) for ankle in other], axis=1)
    outward, down, forward = np.full_like(swing, math.sin(0.22)), np.cos(swing), np.sin(swing)
    azimuth = np.arctan2(forward, outward)
    return np.stack([np.arctan2(np.hypot(outward, forward), down), azimuth,
                     0.45 + 0.5 * swing.clip(-0.3), math.pi / 2 - azimuth], axis=2)


def _torso_keys(rng, count):
    """[count, 9]: pelvis lean, tilt; chest twist, lean, bend; head yaw, nod, roll; plie in metres."""
    keys = rng.normal(0, 1, (count, 9)) * (0.05, 0.06, 0.28, 0.13, 0.17, 0.35, 0.14, 0.10, 0)
    deep = rng.random(count) < 0.25
    keys[:, 8] = np.where(deep, rng.uniform(0.15, 0.32, count), rng.uniform(-0.04, 0.07, count))
    keys[:, 3] += np.where(deep, 0.2, 0.0)
    return keys


def _stance_keys(rng, count):
    """[count, 2]: metres by which each foot stands further out, and the left before the right."""
    wide = np.where(rng.random(count) < 0.35, rng.uniform(0.1, 0.24, count), rng.uniform(-0.02, 0.06, count))
    return np.stack([wide, rng.normal(0, 0.09, count)], axis=1)


def _keyed(rng, frames, interval, sample):
    """Ease from key to key: [frames, ...], keys of `sample` about `interval` frames apart."""
    lengths = interval * rng.choice([1.0, 1.0, 1.5, 2.0], size=int(frames / interval) + 3)
    starts = np.cumsum(lengths) - lengths
    pace = rng.uniform(0.7, 1, len(lengths))  # the rest of the interval is a rest
    keys = sample(rng, len(lengths) + 1)
    time = np.arange(frames)
    number = np.searchsorted(starts, time, side="right") - 1
    part = _ease((time - starts[number]) / (lengths * pace)[number])
    part = part.reshape(-1, *[1] * (keys.ndim - 1))
    return _smooth(keys[number] * (1 - part) + keys[number + 1] * part, 2.0)


def _ease(part):
    """0 before part 0, 1 after part 1, and a smooth S between."""
    part = np.clip(part, 0, 1)
    return part * part * (3 - 2 * part)


def _smooth(values, sigma):
    """Gaussian low-pass along the frames, [T, ...]."""
    reach = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    flat = np.pad(values.reshape(len(values), -1), ((reach, reach), (0, 0)), mode="edge")
    columns = [np.convolve(column, kernel / kernel.sum(), mode="valid") for column in flat.T]
    return np.stack(columns, axis=1).reshape(values.shape)


def _noise(rng, frames, channels, sigma):
    """Slow smooth noise [frames, channels] of standard deviation 1."""
    reach = int(3 * sigma) + 1
    noise = _smooth(rng.normal(size=(frames + 2 * reach, channels)), sigma)
    return noise[reach:-reach] * math.sqrt(2 * math.sqrt(math.pi) * sigma)


def _step(place, facing, stance, lift):
    """Put the feet: ankles [T, 2, 3], yaw [T, 2] and how far each is swinging [T, 2] in 0 ... 1.

    A foot stays where it stands until the place it ought to be at is too far off, then swings to
    where that place will be in the middle of its next stand. Steps of a walk come out of this by
    themselves, whatever the way and the speed. Only one foot is off the floor at a time.
    """
    frames = len(place)
    ankles, yaws, swings = np.zeros((frames, 2, 3)), np.zeros((frames, 2)), np.zeros((frames, 2))
    side = np.stack([np.cos(facing), -np.sin(facing)], axis=1)
    ahead = np.stack([np.sin(facing), np.cos(facing)], axis=1)
    homes = np.stack([
        place + sign * ((HIP_HALF_WIDTH + 0.02 + stance[:, :1]) * side + 0.5 * stance[:, 1:] * ahead)
        for _, sign in SIDES
    ], axis=1)  # [T, 2, 2]
    turnout = np.array([0.22, -0.22])
    spot, yaw = homes[0].copy(), facing[0] + turnout
    flight = [None, None]
    for now in range(frames):
        if flight[0] is None and flight[1] is None and lift[now].max() < 0.05:
            misplaced = np.linalg.norm(homes[now] - spot, axis=1)
            misplaced = misplaced + 0.2 * np.abs(facing[now] + turnout - yaw)
            foot = int(np.argmax(misplaced))
            if misplaced[foot] > 0.09:
                length = 10 if misplaced[foot] < 0.25 else 13
                goal = min(now + length + length // 2, frames - 1)
                flight[foot] = (now, length, spot[foot].copy(), homes[goal, foot],
                                yaw[foot], facing[goal] + turnout[foot])
        for foot in (0, 1):
            height = 0.0
            if flight[foot] is not None:
                start, length, spot_from, spot_to, yaw_from, yaw_to = flight[foot]
                part = (now - start) / length
                spot[foot] = spot_from + _ease(part) * (spot_to - spot_from)
                yaw[foot] = yaw_from + _ease(part) * (yaw_to - yaw_from)
                swings[now, foot] = math.sin(math.pi * part)
                height = swings[now, foot] * min(0.04 + 0.12 * np.linalg.norm(spot_to - spot_from), 0.11)
                if part >= 1:
                    flight[foot] = None
            if lift[now, foot] > 0.3:
                spot[foot] += 0.15 * (homes[now, foot] - spot[foot])
            yaw[foot] = facing[now] + np.clip(yaw[foot] - facing[now], -0.7, 0.7)
            ankles[now, foot] = spot[foot, 0], ANKLE_HEIGHT + height, spot[foot, 1]
        yaws[now] = yaw
    return _smooth(ankles, 1.0), _smooth(yaws, 1.0), swings


def _within_reach(pelvis, body, feet, lift):
    """Heights of the pelvis [T], lowered where a standing leg would not reach the floor."""
    height = pelvis[:, 1].copy()
    for foot, (_, sign) in enumerate(SIDES):
        apart = feet[:, foot] - pelvis - sign * HIP_HALF_WIDTH * body[..., 0]
        level = np.sqrt((0.985 * (THIGH + SHIN)) ** 2 - (apart[:, [0, 2]] ** 2).sum(axis=1).clip(0, 0.35))
        limit = feet[:, foot, 1] + level
        height = np.minimum(height, limit + lift[:, foot])
    return _smooth(height, 2.0)


def _set_trunk(points, pelvis, hips, chest, torso):
    head = chest @ _turn(1, torso[:, 5]) @ _turn(0, torso[:, 6] - 0.5 * torso[:, 3]) @ _turn(2, torso[:, 7])
    waist = pelvis + 0.20 * hips[..., 1]
    neck = waist + 0.33 * chest[..., 1]
    middle = neck + 0.05 * chest[..., 1] + 0.14 * head[..., 1] + 0.02 * head[..., 2]
    nape = middle + head @ (0, 0.02, -0.055)
    trunk = {
        "pelvis": pelvis, "waist": waist, "neck": neck, "head": middle, "nape": nape,
        "crown": middle + head @ (0, 0.045, -0.012), "mouth": middle + head @ (0, -0.050, 0.070),
        "tail": _trailing(nape + head @ (0, -0.17, -0.15)),
    }
    for side, sign in SIDES:
        trunk[f"{side}_eye"] = middle + head @ (sign * 0.036, 0.012, 0.088)
        trunk[f"{side}_flank"] = pelvis + hips @ (sign * 0.06, 0.06, 0)
        trunk[f"{side}_breast"] = neck + chest @ (sign * 0.075, -0.115, 0.01)
        trunk[f"{side}_hip"] = pelvis + hips @ (sign * HIP_HALF_WIDTH, -0.02, 0)
        trunk[f"{side}_shoulder"] = neck + chest @ (sign * 0.175, -0.045, 0)
    for name, place in trunk.items():
        points[:, INDEX[name]] = place


def _trailing(rest):
    """Follow the resting places [T, 3] as a damped spring does: hair that swings after the head."""
    place, velocity = rest[0].copy(), np.zeros(3)
    followed = np.empty_like(rest)
    for frame, goal in enumerate(rest):
        velocity = 0.78 * velocity + 0.10 * (goal - place)
        place = place + velocity
        followed[frame] = goal + 0.8 * np.clip(place - goal, -0.15, 0.15)
    return followed


def _set_legs(points, hips, body, feet, foot_yaw, swing, lift, leg_pose):
    for number, (side, sign) in enumerate(SIDES):
        hip = points[:, INDEX[f"{side}_hip"]]
        raised = lift[:, number, None]
        outward = leg_pose[:, number, :3] * (sign, 1, 1)
        ankle = feet[:, number] * (1 - raised) + raised * (hip + _carried(body, outward))
        opened = 0.25 + 0.5 * (leg_pose[:, number, 0] < 0) * lift[:, number]
        way = np.stack([sign * np.sin(opened), np.full_like(opened, 0.25), np.cos(opened)], axis=1)
        knee, ankle = _bend(hip, ankle, THIGH, SHIN, _carried(body, way))
        flat = _turn(1, foot_yaw[:, number])[..., 2]
        pointed = np.clip(0.9 * raised + 0.35 * swing[:, number, None], 0, 0.9)
        sole = _unit((1 - pointed) * flat + pointed * _unit(ankle - knee))
        under = 0.045 * _unit(np.cross(np.cross((0, 1, 0), flat), sole))
        toe = ankle + under + 0.15 * sole
        toe[:, 1] = toe[:, 1].clip(ANKLE_HEIGHT - 0.045)
        leg = {"knee": knee, "ankle": ankle, "heel": ankle + under - 0.04 * sole, "toe": toe}
        for name, place in leg.items():
            points[:, INDEX[f"{side}_{name}"]] = place


def _bend(root, end, upper, lower, way):
    """Two-bone inverse kinematics: the middle joint, towards `way`, and the end where it can be reached."""
    line = end - root
    distance = np.linalg.norm(line, axis=1, keepdims=True)
    direction = line / distance
    reach = distance.clip(0.25, 0.998 * (upper + lower))
    cosine = (upper**2 + reach**2 - lower**2) / (2 * upper * reach)
    aside = _unit(way - _along(way, direction)[:, None] * direction)
    middle = root + upper * (cosine * direction + np.sqrt(1 - cosine**2) * aside)
    return middle, root + reach * direction


def _set_arms(points, chest, arms):
    for number, (side, sign) in enumerate(SIDES):
        elevation, azimuth, bend, way = arms[:, number].T
        bend = bend.clip(0.05, 2.5)[:, None]
        upper = _sphere(elevation, azimuth)
        lifting = _sphere(elevation + math.pi / 2, azimuth)
        closing = _sphere(np.full_like(azimuth, math.pi / 2), azimuth + math.pi / 2)
        fore = np.cos(bend) * upper
        fore += np.sin(bend) * (np.cos(way)[:, None] * lifting + np.sin(way)[:, None] * closing)
        upper, fore = (_carried(chest, part * (sign, 1, 1)) for part in (upper, fore))
        elbow = points[:, INDEX[f"{side}_shoulder"]] + UPPER_ARM * upper
        points[:, INDEX[f"{side}_elbow"]] = elbow
        points[:, INDEX[f"{side}_wrist"]] = elbow + FOREARM * fore
        points[:, INDEX[f"{side}_hand"]] = elbow + (FOREARM + HAND) * fore


def _sphere(elevation, azimuth):
    """Unit vectors [T, 3] (outward, up, forward): elevation from straight down, azimuth to the front."""
    level = np.sin(elevation)
    return np.stack([level * np.cos(azimuth), -np.cos(elevation), level * np.sin(azimuth)], axis=1)


def _carried(rotations, vectors):
    """Rotations [T, 3, 3] on vectors [T, 3]."""
    return (rotations @ vectors[..., None])[..., 0]


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-6)


def _along(vectors, directions):
    return (vectors * directions).sum(axis=-1)


def _turn(axis, angle):
    """Rotations [T, 3, 3] by angles [T] about axis 0, 1 or 2."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrices = np.tile(np.eye(3), (len(angle), 1, 1))
    matrices[:, first, first] = matrices[:, second, second] = np.cos(angle)
    matrices[:, second, first] = np.sin(angle)
    matrices[:, first, second] = -np.sin(angle)
    return matrices


# ---------------------------------------------------------------- projection

CAMERA_HEIGHT, CAMERA_DISTANCE = 1.25, 5.0
FOCAL_LENGTH = 312.0  # pixels
HORIZON_ROW = 42.0


def project(points):
    """Points [..., 3] in metres to pixels [..., 3]: column, row, and nearness in pixels at that scale.

    The second result is the scale, [...], in pixels a metre. Pixel centres are at halves.
    """
    scale = FOCAL_LENGTH / (CAMERA_DISTANCE - points[..., 2]).clip(0.5)
    column = WIDTH / 2 + points[..., 0] * scale
    row = HORIZON_ROW + (CAMERA_HEIGHT - points[..., 1]) * scale
    return np.stack([column, row, points[..., 2] * scale], axis=-1), scale


def half_width_seen(z):
    """Half of the stage's width in the picture, in metres, at depth z."""
    return WIDTH / 2 * (CAMERA_DISTANCE - z) / FOCAL_LENGTH


# ---------------------------------------------------------------- rendering

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
    *[(f"{side}_breast", "waist", 0.100, 0.118, "top") for side in ("left", "right")],
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
# Lines of the label: from, to, colour of 0 ... 255.
LINES = [
    ("neck", "head", (216, 150, 226)), ("neck", "pelvis", (150, 160, 226)),
    ("neck", "left_shoulder", (240, 150, 180)), ("neck", "right_shoulder", (244, 170, 140)),
    ("pelvis", "left_hip", (130, 200, 230)), ("pelvis", "right_hip", (130, 220, 200)),
    ("left_shoulder", "left_elbow", (246, 160, 160)), ("right_shoulder", "right_elbow", (246, 196, 136)),
    ("left_elbow", "left_wrist", (238, 138, 200)), ("right_elbow", "right_wrist", (232, 216, 120)),
    ("left_hip", "left_knee", (140, 180, 244)), ("right_hip", "right_knee", (140, 222, 160)),
    ("left_knee", "left_ankle", (170, 160, 244)), ("right_knee", "right_ankle", (186, 226, 130)),
]
LABEL_RADIUS = 1.25  # pixels

_CASTING = [[INDEX[start], INDEX[end]] for start, end, *_ in SOLIDS if start != end]
_CASTING_RADII = np.array([solid[2:4] for solid in SOLIDS if solid[0] != solid[1]], np.float32)
_LIGHT = (-0.42, -0.62, 0.66)  # towards the lamp, in the picture's column, row, nearness
_SHADOW_SLANT = 0.35, -0.30  # metres the shadow moves in x and z for a metre of height


class Stage:
    """The empty stage, lit, and the places of its floor: made once, drawn on for every frame."""

    def __init__(self):
        rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
        back = -2.4
        self.floor_row = int(HORIZON_ROW + CAMERA_HEIGHT * FOCAL_LENGTH / (CAMERA_DISTANCE - back))
        depth = CAMERA_HEIGHT * FOCAL_LENGTH / (rows - HORIZON_ROW).clip(1)
        self.floor_x = ((columns - WIDTH / 2) * depth / FOCAL_LENGTH)[self.floor_row:].astype(np.float32)
        self.floor_z = (CAMERA_DISTANCE - depth)[self.floor_row:].astype(np.float32)
        self.picture = self._curtain(rows, columns)
        self.picture[self.floor_row:] = self._floor()
        vignette = 1 - 0.45 * (((columns / WIDTH - 0.5) * 1.7) ** 2 + ((rows / HEIGHT - 0.5) * 0.9) ** 2)
        # Channels first: numpy is several times faster with long rows innermost.
        self.picture = (self.picture * vignette[..., None]).transpose(2, 0, 1).astype(np.float32, order="C")

    def _curtain(self, rows, columns):
        x = columns / WIDTH
        sway = 0.006 * np.sin(rows / 19.0)
        folds = np.sin(2 * np.pi * 17 * (x + sway)) + 0.5 * np.sin(2 * np.pi * 41 * (x + sway) + 1.0)
        folds = 0.5 + 0.22 * folds
        glow = np.exp(-((x - 0.5) / 0.33) ** 2 - ((rows / HEIGHT - 0.62) / 0.55) ** 2)
        level = (0.45 + 0.75 * folds) * (0.42 + 0.75 * glow)
        return level[..., None] * (0.16, 0.13, 0.30)

    def _floor(self):
        board = np.floor(self.floor_x / 0.24)
        along = np.floor(self.floor_z / 1.7 + (board * 0.618) % 1)
        tone = 0.9 + 0.2 * ((np.sin(board * 12.9898 + along * 78.233) * 43758.5453) % 1)
        grain = 1 + 0.04 * np.sin(self.floor_x * 42 + 3 * np.sin(self.floor_z * 4 + board))
        from_seam = 0.24 * (0.5 - np.abs((self.floor_x / 0.24) % 1 - 0.5))  # metres
        seam = (1.1 - from_seam * FOCAL_LENGTH / (CAMERA_DISTANCE - self.floor_z)).clip(0, 1)
        pool = np.exp(-(self.floor_x / 1.8) ** 2 - ((self.floor_z + 0.1) / 1.7) ** 2)
        level = tone * grain * (1 - 0.3 * seam) * (0.32 + 0.95 * pool)
        edge = np.clip((self.floor_z + 2.4) / 0.5, 0.45, 1)
        return (level * edge)[..., None] * (0.40, 0.25, 0.20)


def draw_frame(points, exposure, stage):
    """One frame, uint8 [H, W, 3], from the points [P, 3]; exposure multiplies its brightness."""
    canvas = stage.picture.copy()
    _cast_shadow(canvas, points, stage)
    draw_person(canvas, points)
    return _pixels(canvas * (255 * exposure))


def draw_label(points):
    """One label, uint8 [H, W, 3]: thin lines on white between the projected points [P, 3]."""
    canvas = np.full((3, HEIGHT, WIDTH), 255, np.float32)
    pixels, _ = project(points.astype(np.float32))
    for start, end, colour in LINES:
        line = _capsule(pixels[INDEX[start]], pixels[INDEX[end]], LABEL_RADIUS, LABEL_RADIUS)
        if line is not None:
            box, _, _, _, inside = line
            _blend(canvas[(..., *box)], (inside + 0.5).clip(0, 1), _column(colour))
    return _pixels(canvas)


def _pixels(canvas):
    """A canvas of 0 ... 255, float [3, H, W], as uint8 [H, W, 3]."""
    return (canvas + 0.5).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def draw_person(canvas, points):
    """Draw the person's solids on canvas, float [3, H, W], those nearer over those further away.

    Returns the part of each pixel that the person covers, float [H, W] in 0 ... 1.
    """
    pixels, scale = project(points.astype(np.float32))
    nearness = np.full((HEIGHT, WIDTH), -1e6, np.float32)
    cover = np.zeros((HEIGHT, WIDTH), np.float32)
    for start, end, radius, end_radius, colour in sorted(
        SOLIDS, key=lambda solid: pixels[INDEX[solid[0]], 2] + pixels[INDEX[solid[1]], 2]
    ):
        start, end = INDEX[start], INDEX[end]
        solid = _capsule(pixels[start], pixels[end], radius * scale[start], end_radius * scale[end])
        if solid is None:
            continue
        box, across, down, part, inside = solid
        out = np.sqrt((1 - across * across - down * down).clip(0))
        light = 0.56 + 0.60 * (across * _LIGHT[0] + down * _LIGHT[1] + out * _LIGHT[2]).clip(0)
        near = pixels[start, 2] + part * (pixels[end, 2] - pixels[start, 2]) + out * radius * scale[start]
        gap, region = near - nearness[box], canvas[(..., *box)]
        if colour == "top":
            in_front = gap / 8  # the solids of the torso melt into each other
        else:
            in_front = gap / 1.5 + 0.5
            # What a limb passes in front of darkens along its edge, or like on like would not be seen.
            behind = (gap / (0.12 * scale[start]) - 1).clip(0, 1) * cover[box]
            region *= 1 - 0.45 * (1 + inside / 3).clip(0, 1) * behind
        in_front = np.maximum(in_front, 2 - 2 * cover[box]).clip(0, 1)  # it shows behind a soft edge
        alpha = (inside + 0.5).clip(0, 1) * in_front
        _blend(region, alpha, light * _column(_COLOURS[colour]))
        np.maximum(nearness[box], near, out=nearness[box], where=inside > 0)
        np.maximum(cover[box], alpha, out=cover[box])
    return cover


def _capsule(start, end, radius, end_radius):
    """A capsule that tapers between two projected points, over the pixels of its box alone.

    Returns None outside the frame, else the box (two slices) and float [h, w] arrays: the offset from
    the axis in columns and in rows (by the radius, for shading), the place along the axis in 0 ... 1,
    and the distance inside the outline in pixels.
    """
    margin = 3
    reach, end_reach = radius + margin, end_radius + margin
    left = max(int(min(start[0] - reach, end[0] - end_reach)), 0)
    right = min(int(max(start[0] + reach, end[0] + end_reach)) + 1, WIDTH)
    top = max(int(min(start[1] - reach, end[1] - end_reach)), 0)
    bottom = min(int(max(start[1] + reach, end[1] + end_reach)) + 1, HEIGHT)
    if left >= right or top >= bottom:
        return None
    across = np.arange(left + 0.5 - start[0], right - start[0], dtype=np.float32)[None, :]
    down = np.arange(top + 0.5 - start[1], bottom - start[1], dtype=np.float32)[:, None]
    line_x, line_y = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    square = line_x * line_x + line_y * line_y + np.float32(1e-6)
    beyond = across * (line_x / square) + down * (line_y / square)
    part = beyond.clip(0, 1)
    thickness = np.float32(radius) + part * np.float32(end_radius - radius)
    inside = thickness - np.sqrt((across - part * line_x) ** 2 + (down - part * line_y) ** 2)
    # A long capsule's ends are shaded nearly as its sides, so that two of them join without a seam.
    roundness = np.float32(np.clip(1.3 - 0.5 * math.sqrt(square) / radius, 0.2, 1))
    shaded = beyond + roundness * (part - beyond)
    across, down = (across - shaded * line_x) / thickness, (down - shaded * line_y) / thickness
    return (slice(top, bottom), slice(left, right)), across, down, part, inside


def _blend(region, alpha, colour):
    region += alpha * (colour - region)


def _column(colour):
    return np.array(colour, np.float32)[:, None, None]


def _cast_shadow(canvas, points, stage):
    """Darken the floor where the body is in the way of the lamp; the higher a part, the softer."""
    ends = points[_CASTING].astype(np.float32)  # [solid, end, 3]
    x = ends[..., 0] + _SHADOW_SLANT[0] * ends[..., 1]
    z = ends[..., 2] + _SHADOW_SLANT[1] * ends[..., 1]
    soft = 0.05 + 0.16 * ends[..., 1].sum(axis=1)
    margin = 0.6
    rows = slice(*np.searchsorted(stage.floor_z[:, 0], (z.min() - margin, z.max() + margin)))
    if rows.start == rows.stop:
        return
    columns = slice(*np.searchsorted(stage.floor_x[rows.start], (x.min() - margin, x.max() + margin)))
    floor_x, floor_z = stage.floor_x[rows, columns], stage.floor_z[rows, columns]
    light = np.ones(floor_x.shape, np.float32)
    for (x, end_x), (z, end_z), (radius, end_radius), blur in zip(x, z, _CASTING_RADII, soft):
        line_x, line_z = end_x - x, end_z - z
        across, deep = floor_x - x, floor_z - z
        part = ((across * line_x + deep * line_z) / (line_x**2 + line_z**2 + 1e-6)).clip(0, 1)
        distance = np.sqrt((across - part * line_x) ** 2 + (deep - part * line_z) ** 2)
        light *= 1 - 0.36 * _ease(0.5 - (distance - radius - part * (end_radius - radius)) / blur)
    canvas[:, stage.floor_row:][:, rows, columns] *= light


# ---------------------------------------------------------------- dataset writing

EXPOSURE_RANGE = 0.05
CHUNK = 90  # frames that a worker draws at a time


def exposures(rng, frames):
    """A slow drift of brightness about 1, float [frames], never further off than EXPOSURE_RANGE."""
    drift = _noise(rng, frames, 1, 45.0)[:, 0]
    return 1 + EXPOSURE_RANGE * np.tanh(drift)


def compose(seed, split, sequence, frames):
    """One sequence: points [T, P, 3] and exposures [T], the same for the same arguments."""
    rng = np.random.default_rng([seed, split, sequence])
    return choreograph(rng, frames), exposures(rng, frames)


def make_dancer(root, frames=2520, val_frames=630, test_sequences=5, test_frames=630, seed=0,
                num_workers=None, overwrite=False):
    """Write the stage dancer as a dataset into the folder `root`, which must be new or empty.

    The same arguments give the same bytes, whatever `num_workers` (None: one a processor, at most 8;
    with 1 no process is started). The folder appears at once when all is written. With `overwrite` a dancer
    that is already there is replaced. Raises UsageError if the folder holds anything else or cannot
    be written.
    """
    root = Path(root).resolve()
    settings = _settings(frames, val_frames, test_sequences, test_frames, seed)
    unfinished = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    replaced = root.with_name(f".{root.name}.{os.getpid()}.old")
    try:
        _check_free(root, overwrite)
        unfinished.mkdir(parents=True)
        _write_dataset(unfinished, settings, num_workers or min(os.cpu_count(), 8))
        if root.exists():
            root.rename(replaced)
        unfinished.rename(root)
    except OSError as error:
        raise UsageError(
            f"--dancer {root} cannot be written ({error.strerror or error}); name a folder you may write to"
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def is_dancer(root, frames=2520, val_frames=630, test_sequences=5, test_frames=630, seed=0):
    """Whether `root` holds the whole dataset that make_dancer would write with these arguments."""
    return _read_settings(root) == _settings(frames, val_frames, test_sequences, test_frames, seed)


def _settings(frames, val_frames, test_sequences, test_frames, seed):
    return {"version": VERSION, "frames": frames, "val_frames": val_frames,
            "test_sequences": test_sequences, "test_frames": test_frames, "seed": seed}


def _read_settings(root):
    try:
        return json.loads((Path(root) / "dancer.json").read_text())
    except (OSError, ValueError):
        return None


def _check_free(root, overwrite):
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    if _read_settings(root) is None or {entry.name for entry in root.iterdir()} - {
        "train", "val", "test", "dancer.json", ".decoded",
    }:
        raise UsageError(f"--dancer {root} exists and is not a dancer made here; name a new folder")
    if not overwrite:
        raise UsageError(f"--dancer {root} holds a dancer already; name a new folder or add --overwrite")


class _Job(NamedTuple):
    """Frames of one sequence for a worker to draw."""

    points: np.ndarray  # [n, P, 3]
    exposure: np.ndarray  # [n]
    images: Path
    labels: Path
    number: int  # of the first file
    test_sequence: int | None  # if in a test sequence: only its frame 0 becomes a file, all are handed back


def _write_dataset(root, settings, num_workers):
    lengths = [SEQUENCE_FRAMES] * (settings["frames"] // SEQUENCE_FRAMES)
    if settings["frames"] % SEQUENCE_FRAMES:
        lengths.append(settings["frames"] % SEQUENCE_FRAMES)
    seed, tests = settings["seed"], settings["test_sequences"]
    jobs = []
    for sequence, length in enumerate(lengths):
        jobs += _jobs(root / "train", "", compose(seed, 0, sequence, length), sequence * SEQUENCE_FRAMES)
    jobs += _jobs(root / "val", "", compose(seed, 1, 0, settings["val_frames"]))
    for sequence in range(tests):
        dance = compose(seed, 2, sequence, settings["test_frames"])
        jobs += _jobs(root / "test", str(sequence), dance, test_sequence=sequence)
    (root / "train" / "sequences.txt").write_text("".join(f"{length}\n" for length in lengths))

    truth = [[] for _ in range(tests)]
    with closing(_drawn(jobs, num_workers)) as drawn:
        for job, frames in drawn:
            if job.test_sequence is not None:
                truth[job.test_sequence].append(_as_read(frames))
    usage = ["Public" if sequence < 3 else "Private" for sequence in range(tests)]
    write_pixels_csv(root / "test" / "gt.csv", [np.concatenate(parts) for parts in truth], usage)
    with replacing(root / "dancer.json", "w") as file:
        json.dump(settings, file, indent=2)


def _jobs(folder, subfolder, dance, first=0, test_sequence=None):
    """Cut one dance (points, exposures) into jobs, and make the folders that they write to."""
    points, exposure = dance
    images, labels = (folder / f"{folder.name}_{kind}" / subfolder for kind in ("img", "label"))
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(points), CHUNK):
        part = slice(start, start + CHUNK)
        yield _Job(points[part], exposure[part], images, labels, first + start, test_sequence)


def _drawn(jobs, num_workers):
    """Let workers draw the jobs; yield each in order, with its frames where it hands them back."""
    total = sum(len(job.points) for job in jobs)
    if not sys.stderr.isatty():
        print(f"drawing the stage dancer, {total} frames", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        draw = map
        if num_workers > 1:
            # Forking a parent in which torch has threads is not safe.
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(min(num_workers, len(jobs)), spawn)
            stack.callback(pool.shutdown, cancel_futures=True)
            draw = pool.map
        progress = stack.enter_context(tqdm(total=total, desc="stage dancer", unit="frame", disable=None))
        for job, frames in zip(jobs, draw(_draw_job, jobs)):
            yield job, frames
            progress.update(len(job.points))


def _draw_job(job):
    """Draw and write the frames and labels of a job; its frames, uint8 [n, 3, H, W], if it is of a test."""
    stage = Stage()
    frames = [draw_frame(points, exposure, stage) for points, exposure in zip(job.points, job.exposure)]
    for number, (frame, points) in enumerate(zip(frames, job.points), start=job.number):
        _write_png(job.labels / f"{number}.png", draw_label(points))
        if job.test_sequence is None or number == 0:
            _write_png(job.images / f"{number}.png", frame)
    return None if job.test_sequence is None else np.stack(frames).transpose(0, 3, 1, 2)


def _write_png(path, pixels):
    iio.imwrite(path, pixels, extension=".png", compress_level=1)


def _as_read(frames):
    """Test frames as a reader of the dataset gets them, uint8 [n, 3, 32, 64]."""
    import torch  # here, as the workers have no need of it and it takes seconds to load

    from .images import resize_image

    return resize_image(torch.from_numpy(frames), (32, 64)).numpy()
