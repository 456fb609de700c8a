"""Choreograph the stage dancer: the places of the points of one body in every frame of a dance.

The world is in metres, x to the right of the picture, y up, z towards the camera; the floor is at y 0. Angles are in
radians; a body with yaw 0 faces the camera, and its left side is at larger x. A dance has T frames of the P points of
POINTS. An axis of length 2 holds both feet, legs or arms, the left one first. `sign` is 1 for the left and -1 for the
right side, and mirrors outward coordinates.
"""

import math

import numpy as np

DANCER_FPS = 30

_SIDED = ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "heel", "toe", "flank", "breast", "eye")
# The points of the body in the order of axis P, and the index of each.
POINTS = ("pelvis", "waist", "neck", "head", "crown", "mouth", "nape", "tail",
          *[f"{side}_{name}" for name in _SIDED for side in ("left", "right")])
INDEX = {name: index for index, name in enumerate(POINTS)}

# Metres. The ankle is a joint above the sole; the hand ends at its fingertips.
THIGH, SHIN, ANKLE_HEIGHT, HIP_HALF_WIDTH = 0.41, 0.41, 0.08, 0.095
UPPER_ARM, FOREARM, HAND = 0.28, 0.25, 0.13
STANDING_PELVIS = 0.91  # height of the pelvis
SIDES = (("left", 1), ("right", -1))

# Arm poses in degrees: elevation from hanging, azimuth from sideways to the front, bend of the elbow, and direction of
# the bend (0 lifts the hand, 90 brings it forward or inward).
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

# Offset of a lifted ankle from its hip (outward, up, forward), and lean of the chest.
LEG_POSES = {
    "knee": (0.05, -0.35, 0.28, 0.0),
    "front": (0.02, -0.42, 0.64, -0.15),
    "side": (0.62, -0.46, 0.08, 0.05),
    "back": (0.02, -0.52, -0.56, 0.45),
    "passe": (-0.06, -0.44, 0.10, 0.0),
}


def choreograph(rng, frames, half_width_seen):
    """Invent a dance of `frames` frames; returns the points of the body, float [T, P, 3] in metres.

    half_width_seen: function from a depth z to the x at which the picture ends there, in metres; the dancer leaves the
    picture now and then.
    """
    warm_up = 30  # frames for the feet to find the floor and the hair to settle; cut off at the end
    total = frames + warm_up
    route = _Route(rng, total, half_width_seen)
    place = _smooth(_interpolate(route.places, total), 5.0)
    facing = _smooth(_interpolate(route.facings, total)[:, 0], 4.5)
    lift, leg_pose = route.lift, route.leg_pose
    speed = np.linalg.norm(np.gradient(place, axis=0), axis=1) * DANCER_FPS
    walk = _smooth(np.clip((speed - 0.35) / 0.4, 0, 1), 3.0)  # 0 dancing ... 1 walking

    beat = rng.uniform(16, 20)  # frames
    arms = _smooth(np.radians(_keyed(rng, total, beat * rng.uniform(1.1, 1.5), _arm_keys)), 2.5)
    torso = _keyed(rng, total, beat * 1.3, _torso_keys) * (1 - 0.75 * walk[:, None])
    stance = _keyed(rng, total, beat * 3, _stance_keys) * (1 - walk[:, None])
    arms += 0.06 * noise(rng, total, 8, 14.0).reshape(total, 2, 4)
    torso += 0.03 * noise(rng, total, 9, 18.0)
    chest_lean, plie = torso[:, 3], torso[:, 8]  # views: changing them changes torso
    phase = 2 * np.pi * np.arange(total) / beat
    groove = _smooth(np.clip(noise(rng, total, 1, 40.0)[:, 0] + 0.4, 0, 1), 6.0) * (1 - walk)
    chest_lean += (lift * leg_pose[..., 3]).sum(axis=1) + 0.05 * groove * np.cos(phase)

    feet, foot_yaw, swing = _step(place, facing, stance, lift)
    body = _rotations(1, facing)  # [T, 3, 3]
    pelvis = _pelvis(place, feet, body, lift, plie, bounce=0.022 * groove * (1 - np.cos(phase)))
    points, chest = _trunk(pelvis, body, torso)
    _add_legs(points, body, feet, foot_yaw, swing, lift, leg_pose)
    arms += (walk * route.arm_swing)[:, None, None] * (_swinging_arms(points, pelvis, body) - arms)
    _add_arms(points, chest, arms)
    return np.stack([points[name] for name in POINTS], axis=1)[warm_up:]


class _Route:
    """Invent the route over the stage, act by act; an act is a method that starts at frame `now` and moves it on.

    places, facings: keys (frame, x, z) and (frame, yaw). lift: lift of each leg, [T, 2] in 0 ... 1. leg_pose: its pose
    from LEG_POSES, [T, 2, 4].
    """

    def __init__(self, rng, frames, half_width_seen):
        self.rng, self.half_width_seen = rng, half_width_seen
        self.x, self.z, self.yaw = rng.uniform(-0.9, 0.9), rng.uniform(-0.4, 0.3), rng.uniform(-0.5, 0.5)
        self.now = 0.0  # frames
        self.places, self.facings = [(0, self.x, self.z)], [(0, self.yaw)]
        self.lift, self.leg_pose = np.zeros((frames, 2)), np.zeros((frames, 2, 4))
        self.arm_swing = rng.uniform(0.5, 1.0)
        self.dance()
        rare = [self.leave, self.come_close]
        common = [self.turn_away, self.spin, self.kick, self.walk, self.side_step, self.kick]
        while self.now < frames:
            common = list(rng.permutation(common))
            # The rare acts come early in each round, so that a sequence of 21 seconds has both.
            opening = rng.permutation(rare + common[:2])
            for act in [*opening, *common[2:], self.dance]:
                act()

    def _stay(self, seconds):
        self._go(self.x, self.z, seconds)

    def _go(self, x, z, seconds):
        """Glide to (x, z) without turning."""
        self.now += seconds * DANCER_FPS
        self.x, self.z = x, z
        self.places.append((self.now, x, z))

    def _face(self, yaw, seconds, delay=0.0):
        """Turn to `yaw`, starting `delay` seconds from now; leaves `now` as it is."""
        start = max(self.now + delay * DANCER_FPS, self.facings[-1][0] + 1)
        self.facings += [(start, self.yaw), (start + seconds * DANCER_FPS, yaw)]
        self.yaw = yaw

    def _nearest(self, yaw):
        """Return the angle equivalent to `yaw` that takes the smallest turn from here."""
        return self.yaw + (yaw - self.yaw + math.pi) % (2 * math.pi) - math.pi

    def _front(self):
        """Draw a yaw roughly towards the camera."""
        return self._nearest(self.rng.uniform(-0.7, 0.7))

    def _lift(self, seconds, leg, name):
        """Lift leg 0 or 1 into a pose of LEG_POSES from now on; leaves `now` as it is."""
        time, end = np.arange(len(self.lift)), self.now + seconds * DANCER_FPS
        rise = ease((time - self.now) / 16) * ease((end - time) / 16)
        self.lift[:, leg] += rise
        self.leg_pose[rise > 0, leg] = LEG_POSES[name]

    def dance(self):
        self._face(self._front(), self.rng.uniform(0.7, 1.2), delay=self.rng.uniform(0.3, 1.0))
        self._stay(self.rng.uniform(2.2, 4.0))

    def turn_away(self):
        yaw = self.yaw + self.rng.choice([-1, 1]) * math.pi + self.rng.uniform(-0.4, 0.4)
        self._face(yaw, self.rng.uniform(1.0, 1.5))
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
        self._walk_to_dance(-np.sign(self.x) * self.rng.uniform(0.4, 1.5), self.rng.uniform(-0.5, 0.4))

    def leave(self):
        side = 1 if self.x > 0 else -1
        self._walk_to(side * (self.half_width_seen(self.z) + 1.15), self.z)
        self._stay(self.rng.uniform(0.2, 1.0))
        self._walk_to_dance(side * self.rng.uniform(0.2, 1.2), self.rng.uniform(-0.4, 0.3))

    def come_close(self):
        self._face(self._front(), 0.7)
        self._go(self.rng.uniform(-0.5, 0.5), self.rng.uniform(1.3, 1.8), self.rng.uniform(1.6, 2.4))
        self.dance()
        if self.rng.random() < 0.5:
            self._walk_to_dance(self.rng.uniform(-0.6, 0.6), self.rng.uniform(-0.5, 0.0))
        else:
            self._go(self.rng.uniform(-0.6, 0.6), self.rng.uniform(-0.5, 0.0), self.rng.uniform(1.8, 2.6))

    def _walk_to(self, x, z):
        """Turn towards (x, z) and walk there at 0.9 to 1.2 metres per second."""
        across, ahead = x - self.x, z - self.z
        self._face(self._nearest(math.atan2(across, ahead)), 0.6)
        self._stay(0.25)
        self._go(x, z, math.hypot(across, ahead) / self.rng.uniform(0.9, 1.2))

    def _walk_to_dance(self, x, z):
        """Walk to (x, z), then turn to the front."""
        self._walk_to(x, z)
        self._face(self._front(), 0.8)
        self._stay(0.9)


def _arm_keys(rng, count):
    """Draw arm angles in degrees, [count, 2, 4]: arms alike, different, or one copied from the key before."""
    keys = ARM_POSES[rng.integers(len(ARM_POSES), size=(count, 2))].astype(float)
    for index, choice in enumerate(rng.random(count)):
        if choice < 0.45:
            keys[index, 1] = keys[index, 0]
        elif choice < 0.65 and index:
            keys[index, rng.integers(2)] = keys[index - 1, rng.integers(2)]
    return keys + rng.normal(0, 1, keys.shape) * (8, 8, 8, 12)


def _swinging_arms(points, pelvis, body):
    """Return the arm angles of a walk, [T, 2, 4]: each arm follows the opposite leg, its elbow bent forward."""
    opposite = [points[name] - pelvis for name in ("right_ankle", "left_ankle")]
    swing = 0.05 + 1.6 * np.stack([_dot(ankle, body[..., 2]) for ankle in opposite], axis=1)
    outward, down, forward = np.full_like(swing, math.sin(0.22)), np.cos(swing), np.sin(swing)
    azimuth = np.arctan2(forward, outward)
    return np.stack([np.arctan2(np.hypot(outward, forward), down), azimuth,
                     0.45 + 0.5 * swing.clip(-0.3), math.pi / 2 - azimuth], axis=2)


def _torso_keys(rng, count):
    """Draw [count, 9]: pelvis lean, tilt; chest twist, lean, bend; head yaw, nod, roll; plie in metres."""
    keys = rng.normal(0, 1, (count, 9)) * (0.05, 0.06, 0.28, 0.13, 0.17, 0.35, 0.14, 0.10, 0)
    deep = rng.random(count) < 0.25
    keys[:, 8] = np.where(deep, rng.uniform(0.15, 0.32, count), rng.uniform(-0.04, 0.07, count))
    keys[:, 3] += 0.2 * deep
    return keys


def _stance_keys(rng, count):
    """Draw [count, 2] in metres: extra distance of each foot from the middle, and lead of the left foot."""
    wide = np.where(rng.random(count) < 0.35, rng.uniform(0.1, 0.24, count), rng.uniform(-0.02, 0.06, count))
    return np.stack([wide, rng.normal(0, 0.09, count)], axis=1)


def _keyed(rng, frames, interval, sample):
    """Ease between the keys [count, ...] of sample(rng, count), about `interval` frames apart: [frames, ...]."""
    lengths = interval * rng.choice([1.0, 1.0, 1.5, 2.0], size=int(frames / interval) + 3)
    starts = np.cumsum(lengths) - lengths
    moving = rng.uniform(0.7, 1, len(lengths))  # fraction of each interval; the pose is held for the remainder
    keys = sample(rng, len(lengths) + 1)
    time = np.arange(frames)
    index = np.searchsorted(starts, time, side="right") - 1
    progress = ease((time - starts[index]) / (lengths * moving)[index]).reshape(-1, *[1] * (keys.ndim - 1))
    return _smooth(keys[index] * (1 - progress) + keys[index + 1] * progress, 2.0)


def _interpolate(keys, frames):
    """Interpolate linearly between keys (frame, value, ...): float [frames, values]."""
    times, *columns = np.array(keys).T
    return np.stack([np.interp(np.arange(frames), times, column) for column in columns], axis=1)


def ease(progress):
    """Return 0 up to progress 0, 1 from progress 1 on, and a smooth S between; takes numbers or arrays."""
    progress = np.clip(progress, 0, 1)
    return progress * progress * (3 - 2 * progress)


def _smooth(values, sigma):
    """Low-pass values [T, ...] along the frames with a Gaussian of `sigma` frames."""
    reach = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    flat = np.pad(values.reshape(len(values), -1), ((reach, reach), (0, 0)), mode="edge")
    columns = [np.convolve(column, kernel / kernel.sum(), mode="valid") for column in flat.T]
    return np.stack(columns, axis=1).reshape(values.shape)


def noise(rng, frames, channels, sigma):
    """Draw noise low-passed by a Gaussian of `sigma` frames: float [frames, channels], mean 0, standard deviation 1."""
    reach = int(3 * sigma) + 1
    values = _smooth(rng.normal(size=(frames + 2 * reach, channels)), sigma)
    return values[reach:-reach] * math.sqrt(2 * math.sqrt(math.pi) * sigma)


def _step(place, facing, stance, lift):
    """Step along the route: ankles [T, 2, 3], yaw of the feet [T, 2] and their swing [T, 2], 0 standing ... 1.

    A foot stands until its home is too far away, then swings to where the home will be in the middle of its next
    stand: a walk at any speed and in any direction, with one foot off the floor at a time.
    place [T, 2], facing [T], lift [T, 2]: see _Route; stance [T, 2]: see _stance_keys.
    """
    frames, homes = len(place), _homes(place, facing, stance)
    tracks, heights, swings = np.zeros_like(homes), np.zeros((frames, 2)), np.zeros((frames, 2))
    feet = homes[0].copy()  # x, z and yaw of each
    step = None
    for now in range(frames):
        if step is None and lift[now].max() < 0.05:
            step = _next_step(now, feet, homes)
        if step is not None:
            foot, start, length, origin, goal = step
            progress = (now - start) / length
            feet[foot] = origin + ease(progress) * (goal - origin)
            swings[now, foot] = math.sin(math.pi * progress)
            highest = min(0.04 + 0.12 * np.linalg.norm((goal - origin)[:2]), 0.11)
            heights[now, foot] = swings[now, foot] * highest
            if progress >= 1:
                step = None
        lifted = lift[now] > 0.3
        feet[lifted, :2] += 0.15 * (homes[now, lifted, :2] - feet[lifted, :2])
        feet[:, 2] = facing[now] + np.clip(feet[:, 2] - facing[now], -0.7, 0.7)
        tracks[now] = feet
    ankles = np.stack([tracks[..., 0], ANKLE_HEIGHT + heights, tracks[..., 1]], axis=2)
    return _smooth(ankles, 1.0), _smooth(tracks[..., 2], 1.0), swings


def _next_step(now, feet, homes):
    """Choose the step that starts now: foot, first frame, frames, origin, goal; None if both feet are near home."""
    gap = homes[now] - feet
    misplaced = np.linalg.norm(gap[:, :2], axis=1) + 0.2 * np.abs(gap[:, 2])
    foot = int(np.argmax(misplaced.round(9)))  # at a dance's first step both are as far: rounding must not choose
    if misplaced[foot] <= 0.09:
        return None
    length = 10 if misplaced[foot] < 0.25 else 13
    landing = min(now + length + length // 2, len(homes) - 1)
    return foot, now, length, feet[foot].copy(), homes[landing, foot]


def _homes(place, facing, stance):
    """Return the home of each foot, x, z and yaw, [T, 2, 3]; parameters as in _step."""
    side = np.stack([np.cos(facing), -np.sin(facing)], axis=1)
    ahead = np.stack([np.sin(facing), np.cos(facing)], axis=1)
    apart = (HIP_HALF_WIDTH + 0.02 + stance[:, :1]) * side + 0.5 * stance[:, 1:] * ahead
    return np.stack([np.column_stack([place + sign * apart, facing + sign * 0.22]) for _, sign in SIDES], axis=1)


def _pelvis(place, feet, body, lift, plie, bounce):
    """Move the pelvis, [T, 3], over its place or the standing foot, low enough for standing legs to reach the floor."""
    lifted = lift.sum(axis=1, keepdims=True)
    support = (feet[:, ::-1] * lift[..., None]).sum(axis=1)  # a lifted leg leaves the weight to the other foot
    pelvis = _smooth(np.insert(place, 1, 0, axis=1) * (1 - 0.85 * lifted) + 0.85 * support, 3.0)
    height = STANDING_PELVIS - plie.clip(0) * (1 - 0.7 * lifted[:, 0]) - bounce
    for foot, (_, sign) in enumerate(SIDES):
        apart = feet[:, foot] - pelvis - sign * HIP_HALF_WIDTH * body[..., 0]
        reach = np.sqrt((0.985 * (THIGH + SHIN)) ** 2 - (apart[:, [0, 2]] ** 2).sum(axis=1).clip(0, 0.35))
        height = np.minimum(height, feet[:, foot, 1] + reach + lift[:, foot])
    pelvis[:, 1] = _smooth(height, 2.0)
    return pelvis


def _trunk(pelvis, body, torso):
    """Place the points of trunk and head, {name: [T, 3]}; returns them and the rotations of the chest, [T, 3, 3].

    pelvis: [T, 3]. body: its rotations by the facing, [T, 3, 3]. torso: angles [T, 9], see _torso_keys.
    """
    hip_lean, hip_tilt, twist, chest_lean, chest_bend, head_yaw, head_nod, head_roll, _ = torso.T
    hips = body @ _rotations(0, hip_lean) @ _rotations(2, hip_tilt)
    chest = hips @ _rotations(1, twist) @ _rotations(0, chest_lean) @ _rotations(2, chest_bend)
    head = chest @ _rotations(1, head_yaw) @ _rotations(0, head_nod - 0.5 * chest_lean) @ _rotations(2, head_roll)
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
    return trunk, chest


def _trailing(rest):
    """Follow the resting places [T, 3] like a damped spring: hair that swings after the head."""
    place, velocity = rest[0].copy(), np.zeros(3)
    followed = np.empty_like(rest)
    for frame, goal in enumerate(rest):
        velocity = 0.78 * velocity + 0.10 * (goal - place)
        place = place + velocity
        followed[frame] = goal + 0.8 * np.clip(place - goal, -0.15, 0.15)
    return followed


def _add_legs(points, body, feet, foot_yaw, swing, lift, leg_pose):
    """Add the legs to `points`, {name: [T, 3]}: from each hip to its foot or, when lifted, into its pose."""
    for index, (side, sign) in enumerate(SIDES):
        hip = points[f"{side}_hip"]
        lifted = lift[:, index, None]
        offset = leg_pose[:, index, :3] * (sign, 1, 1)
        ankle = feet[:, index] * (1 - lifted) + lifted * (hip + _rotated(body, offset))
        turnout = 0.25 + 0.5 * (leg_pose[:, index, 0] < 0) * lift[:, index]
        pole = np.stack([sign * np.sin(turnout), np.full_like(turnout, 0.25), np.cos(turnout)], axis=1)
        knee, ankle = _bend(hip, ankle, THIGH, SHIN, _rotated(body, pole))
        flat = _rotations(1, foot_yaw[:, index])[..., 2]
        pointed = np.clip(0.9 * lifted + 0.35 * swing[:, index, None], 0, 0.9)
        sole = _unit((1 - pointed) * flat + pointed * _unit(ankle - knee))
        under = 0.045 * _unit(np.cross(np.cross((0, 1, 0), flat), sole))
        toe = ankle + under + 0.15 * sole
        toe[:, 1] = toe[:, 1].clip(ANKLE_HEIGHT - 0.045)
        points |= {f"{side}_knee": knee, f"{side}_ankle": ankle,
                   f"{side}_heel": ankle + under - 0.04 * sole, f"{side}_toe": toe}


def _bend(root, end, upper, lower, pole):
    """Solve two-bone inverse kinematics: the middle joint, bent towards `pole`, and the end, moved within reach."""
    line = end - root
    distance = np.linalg.norm(line, axis=1, keepdims=True)
    direction = line / distance
    reach = distance.clip(0.25, 0.998 * (upper + lower))
    cosine = (upper**2 + reach**2 - lower**2) / (2 * upper * reach)
    aside = _unit(pole - _dot(pole, direction)[:, None] * direction)
    middle = root + upper * (cosine * direction + np.sqrt(1 - cosine**2) * aside)
    return middle, root + reach * direction


def _add_arms(points, chest, angles):
    """Add the arms to `points`, {name: [T, 3]}, from each shoulder on; angles: [T, 2, 4] as in ARM_POSES."""
    for index, (side, sign) in enumerate(SIDES):
        elevation, azimuth, bend, inward = angles[:, index].T
        bend, inward = bend.clip(0.05, 2.5)[:, None], inward[:, None]
        upper = _direction(elevation, azimuth)
        lifting = _direction(elevation + math.pi / 2, azimuth)
        closing = _direction(np.full_like(azimuth, math.pi / 2), azimuth + math.pi / 2)
        fore = np.cos(bend) * upper + np.sin(bend) * (np.cos(inward) * lifting + np.sin(inward) * closing)
        upper, fore = (_rotated(chest, bone * (sign, 1, 1)) for bone in (upper, fore))
        elbow = points[f"{side}_shoulder"] + UPPER_ARM * upper
        points |= {f"{side}_elbow": elbow, f"{side}_wrist": elbow + FOREARM * fore,
                   f"{side}_hand": elbow + (FOREARM + HAND) * fore}


def _direction(elevation, azimuth):
    """Return unit vectors [T, 3] (outward, up, forward); elevation from straight down, azimuth to the front."""
    level = np.sin(elevation)
    return np.stack([level * np.cos(azimuth), -np.cos(elevation), level * np.sin(azimuth)], axis=1)


def _rotated(rotations, vectors):
    """Apply rotations [T, 3, 3] to vectors [T, 3]."""
    return (rotations @ vectors[..., None])[..., 0]


def _unit(vectors):
    """Scale vectors [..., 3] to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-6)


def _dot(vectors, directions):
    return (vectors * directions).sum(axis=-1)


def _rotations(axis, angles):
    """Return rotations [T, 3, 3] by angles [T] about axis 0, 1 or 2."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrices = np.tile(np.eye(3), (len(angles), 1, 1))
    matrices[:, first, first] = matrices[:, second, second] = np.cos(angles)
    matrices[:, second, first] = np.sin(angles)
    matrices[:, first, second] = -np.sin(angles)
    return matrices
