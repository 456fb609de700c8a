"""The choreography of the stage dancer: where the points of one body are in every frame of a dance.

The world is in metres, x to the right of the picture, y up, z towards the camera; the floor is at
y 0. Angles are radians; a body with yaw 0 faces the camera and has its left side at larger x.
T frames of a dance hold the P points of POINTS. Arrays over both feet, legs or arms have an axis
of 2, the left one first; `sign` is 1 for the left and -1 for the right, and mirrors what points
outward.
"""

import math

import numpy as np

FRAMES_PER_SECOND = 30

_SIDED = ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "heel", "toe",
          "flank", "breast", "eye")
# Names of the points of the body, in the order of the axis P, and the place of each in that order.
POINTS = ("pelvis", "waist", "neck", "head", "crown", "mouth", "nape", "tail",
          *[f"{side}_{name}" for name in _SIDED for side in ("left", "right")])
INDEX = {name: number for number, name in enumerate(POINTS)}

# Lengths in metres; the ankle is a joint above the sole, the hand ends at its fingers.
THIGH, SHIN, ANKLE_HEIGHT, HIP_HALF_WIDTH = 0.41, 0.41, 0.08, 0.095
UPPER_ARM, FOREARM, HAND = 0.28, 0.25, 0.13
STANDING_PELVIS = 0.91  # height of the pelvis
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


def choreograph(rng, frames, half_width_seen):
    """Make up a dance of `frames` frames: the points of the body, float [T, P, 3] in metres.

    half_width_seen: function from a depth z to how far from the middle the camera sees there, in
    metres; the dancer leaves the picture now and then.
    """
    warm_up = 30  # frames before the first one, in which feet find the floor and hair its place
    total = frames + warm_up
    route = _Route(rng, total, half_width_seen)
    place, facing = _smooth(route.place(), 5.0), _smooth(route.facing(), 4.5)
    lift, leg_pose = route.lifts()
    speed = np.linalg.norm(np.gradient(place, axis=0), axis=1) * FRAMES_PER_SECOND
    walk = _smooth(np.clip((speed - 0.35) / 0.4, 0, 1), 3.0)  # 0 dancing ... 1 walking

    beat = rng.uniform(16, 20)  # frames
    arms = _smooth(np.radians(_keyed(rng, total, beat * rng.uniform(1.1, 1.5), _arm_keys)), 2.5)
    torso = _keyed(rng, total, beat * 1.3, _torso_keys) * (1 - 0.75 * walk[:, None])
    stance = _keyed(rng, total, beat * 3, _stance_keys) * (1 - walk[:, None])
    arms = arms + 0.06 * noise(rng, total, 8, 14.0).reshape(total, 2, 4)
    torso = torso + 0.03 * noise(rng, total, 9, 18.0)
    hip_lean, hip_tilt, twist, chest_lean, chest_bend, head_yaw, head_nod, head_roll, plie = torso.T
    phase = 2 * np.pi * np.arange(total) / beat
    groove = _smooth(np.clip(noise(rng, total, 1, 40.0)[:, 0] + 0.4, 0, 1), 6.0) * (1 - walk)

    feet, foot_yaw, swing = _step(place, facing, stance, lift)
    body = _rotations(1, facing)  # [T, 3, 3]
    pelvis = _pelvis(place, feet, body, lift, plie, bounce=0.022 * groove * (1 - np.cos(phase)))

    chest_lean += (lift * leg_pose[..., 3]).sum(axis=1) + 0.05 * groove * np.cos(phase)
    hips = body @ _rotations(0, hip_lean) @ _rotations(2, hip_tilt)
    chest = hips @ _rotations(1, twist) @ _rotations(0, chest_lean) @ _rotations(2, chest_bend)
    head = chest @ _rotations(1, head_yaw) @ _rotations(0, head_nod - 0.5 * chest_lean)
    head = head @ _rotations(2, head_roll)
    points = _trunk(pelvis, hips, chest, head)
    points |= _legs(points, body, feet, foot_yaw, swing, lift, leg_pose)
    arms += (walk * route.arm_swing)[:, None, None] * (_swinging_arms(points, pelvis, body) - arms)
    points |= _arms(points, chest, arms)
    return np.stack([points[name] for name in POINTS], axis=1)[warm_up:]


class _Route:
    """The way over the stage, made up act by act: place (x, z), facing (yaw) and lifted legs by frame.

    An act is a method that adds keys from the frame `now` on, and moves `now` to its own end.
    """

    def __init__(self, rng, frames, half_width_seen):
        self.rng, self.frames, self.half_width_seen = rng, frames, half_width_seen
        self.x, self.z, self.yaw = rng.uniform(-0.9, 0.9), rng.uniform(-0.4, 0.3), rng.uniform(-0.5, 0.5)
        self.now = 0.0  # frames
        self.places, self.facings, self.legs = [(0, self.x, self.z)], [(0, self.yaw)], []
        self.arm_swing = rng.uniform(0.5, 1.0)
        self.dance()
        rare = [self.leave, self.come_close]
        common = [self.turn_away, self.spin, self.kick, self.walk, self.side_step, self.kick]
        while self.now < frames:
            common = list(rng.permutation(common))
            # The rare ones early in each round, so that a sequence of 21 seconds has them both.
            opening = rng.permutation(rare + common[:2])
            for act in [*opening, *common[2:], self.dance]:
                act()

    def place(self):
        """Place on the floor, [T, 2]: x and z."""
        return self._interpolated(self.places)

    def facing(self):
        """Yaw, [T]; it runs on over full turns."""
        return self._interpolated(self.facings)[:, 0]

    def lifts(self):
        """How far each leg is lifted, [T, 2] in 0 ... 1, and its pose of LEG_POSES, [T, 2, 4]."""
        time = np.arange(self.frames)
        lift, pose = np.zeros((self.frames, 2)), np.zeros((self.frames, 2, 4))
        for start, end, leg, name in self.legs:
            rise = ease((time - start) / 16) * ease((end - time) / 16)
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
        """Glide to (x, z), whatever way is faced."""
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
        """A yaw about towards the camera."""
        return self._nearest(self.rng.uniform(-0.7, 0.7))

    def _lift(self, seconds, leg, name):
        """Lift leg 0 or 1 into a pose of LEG_POSES from now on; time itself does not move on."""
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
        """Walk with the face to the way of walking, at 0.9 to 1.2 metres a second."""
        across, ahead = x - self.x, z - self.z
        self._face(self._nearest(math.atan2(across, ahead)), 0.6)
        self._stay(0.25)
        self._go(x, z, math.hypot(across, ahead) / self.rng.uniform(0.9, 1.2))

    def _walk_to_dance(self, x, z):
        """Walk to (x, z) and turn to the front there."""
        self._walk_to(x, z)
        self._face(self._front(), 0.8)
        self._stay(0.9)


def _arm_keys(rng, count):
    """Arm angles in degrees, [count, 2, 4]: both arms alike, each its own, or one as it was before."""
    keys = ARM_POSES[rng.integers(len(ARM_POSES), size=(count, 2))].astype(float)
    for number, manner in enumerate(rng.random(count)):
        if manner < 0.45:
            keys[number, 1] = keys[number, 0]
        elif manner < 0.65 and number:
            keys[number, rng.integers(2)] = keys[number - 1, rng.integers(2)]
    return keys + rng.normal(0, 1, keys.shape) * (8, 8, 8, 12)


def _swinging_arms(points, pelvis, body):
    """Arm angles of a walk, [T, 2, 4]: each arm goes with the other leg, its elbow bent forward."""
    other = [points[f"{side}_ankle"] - pelvis for side in ("right", "left")]
    swing = 0.05 + 1.6 * np.stack([_dot(ankle, body[..., 2]) for ankle in other], axis=1)
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
    part = ease((time - starts[number]) / (lengths * pace)[number])
    part = part.reshape(-1, *[1] * (keys.ndim - 1))
    return _smooth(keys[number] * (1 - part) + keys[number + 1] * part, 2.0)


def ease(part):
    """0 where part is up to 0, 1 where it is from 1 on, and a smooth S between; part may be an array."""
    part = np.clip(part, 0, 1)
    return part * part * (3 - 2 * part)


def _smooth(values, sigma):
    """Gaussian low-pass of values [T, ...] along the frames; sigma in frames."""
    reach = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    flat = np.pad(values.reshape(len(values), -1), ((reach, reach), (0, 0)), mode="edge")
    columns = [np.convolve(column, kernel / kernel.sum(), mode="valid") for column in flat.T]
    return np.stack(columns, axis=1).reshape(values.shape)


def noise(rng, frames, channels, sigma):
    """Smooth noise, float [frames, channels], of mean 0 and standard deviation 1.

    sigma: that of the Gaussian low-pass in frames; the larger, the slower the noise.
    """
    reach = int(3 * sigma) + 1
    values = _smooth(rng.normal(size=(frames + 2 * reach, channels)), sigma)
    return values[reach:-reach] * math.sqrt(2 * math.sqrt(math.pi) * sigma)


def _step(place, facing, stance, lift):
    """Put the feet: ankles [T, 2, 3], yaw [T, 2] and how far each is swinging [T, 2] in 0 ... 1.

    A foot stays where it stands until the place where it ought to be is too far away; then it swings to where that
    place will be in the middle of its next stand. This gives the steps of a walk at any speed and in any direction.
    Only one foot is off the floor at a time. place [T, 2], facing [T], lift [T, 2]: see _Route; stance [T, 2]: see
    _stance_keys.
    """
    frames, homes = len(place), _homes(place, facing, stance)
    spots, heights, swings = np.zeros_like(homes), np.zeros((frames, 2)), np.zeros((frames, 2))
    spot = homes[0].copy()  # x, z and yaw that each foot has
    flight = None  # of the one foot that swings: foot, first frame, frames, from and to which spot
    for now in range(frames):
        if flight is None and lift[now].max() < 0.05:
            gap = homes[now] - spot
            misplaced = np.linalg.norm(gap[:, :2], axis=1) + 0.2 * np.abs(gap[:, 2])
            foot = int(np.argmax(misplaced))
            if misplaced[foot] > 0.09:
                length = 10 if misplaced[foot] < 0.25 else 13
                landing = min(now + length + length // 2, frames - 1)
                flight = foot, now, length, spot[foot].copy(), homes[landing, foot]
        if flight is not None:
            foot, start, length, origin, goal = flight
            part = (now - start) / length
            spot[foot] = origin + ease(part) * (goal - origin)
            swings[now, foot] = math.sin(math.pi * part)
            highest = min(0.04 + 0.12 * np.linalg.norm((goal - origin)[:2]), 0.11)
            heights[now, foot] = swings[now, foot] * highest
            if part >= 1:
                flight = None
        lifted = lift[now] > 0.3
        spot[lifted, :2] += 0.15 * (homes[now, lifted, :2] - spot[lifted, :2])
        spot[:, 2] = facing[now] + np.clip(spot[:, 2] - facing[now], -0.7, 0.7)
        spots[now] = spot
    ankles = np.stack([spots[..., 0], ANKLE_HEIGHT + heights, spots[..., 1]], axis=2)
    return _smooth(ankles, 1.0), _smooth(spots[..., 2], 1.0), swings


def _homes(place, facing, stance):
    """Where each foot ought to be: x, z and yaw, [T, 2, 3]; the parameters of `_step`."""
    side = np.stack([np.cos(facing), -np.sin(facing)], axis=1)
    ahead = np.stack([np.sin(facing), np.cos(facing)], axis=1)
    homes = np.empty((len(place), 2, 3))
    for foot, (_, sign) in enumerate(SIDES):
        apart = (HIP_HALF_WIDTH + 0.02 + stance[:, :1]) * side + 0.5 * stance[:, 1:] * ahead
        homes[:, foot, :2] = place + sign * apart
        homes[:, foot, 2] = facing + sign * 0.22
    return homes


def _pelvis(place, feet, body, lift, plie, bounce):
    """Put the pelvis, [T, 3]: over its place, or over the standing foot while the other one is lifted."""
    supported = lift.sum(axis=1, keepdims=True)
    support = feet[:, ::-1] * lift[..., None]  # the other foot carries
    pelvis = np.stack([place[:, 0], np.zeros(len(place)), place[:, 1]], axis=1)
    pelvis = pelvis * (1 - 0.85 * supported) + 0.85 * support.sum(axis=1)
    pelvis = _smooth(pelvis, 3.0)
    pelvis[:, 1] = STANDING_PELVIS - plie.clip(0) * (1 - 0.7 * supported[:, 0]) - bounce
    pelvis[:, 1] = _within_reach(pelvis, body, feet, lift)
    return pelvis


def _within_reach(pelvis, body, feet, lift):
    """Heights of the pelvis [T], lowered where a standing leg would not reach the floor."""
    height = pelvis[:, 1].copy()
    for foot, (_, sign) in enumerate(SIDES):
        apart = feet[:, foot] - pelvis - sign * HIP_HALF_WIDTH * body[..., 0]
        level = np.sqrt((0.985 * (THIGH + SHIN)) ** 2 - (apart[:, [0, 2]] ** 2).sum(axis=1).clip(0, 0.35))
        limit = feet[:, foot, 1] + level
        height = np.minimum(height, limit + lift[:, foot])
    return _smooth(height, 2.0)


def _trunk(pelvis, hips, chest, head):
    """Points [T, 3] by name, from the pelvis [T, 3] and the rotations [T, 3, 3] of hips, chest and head."""
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
    return trunk


def _trailing(rest):
    """Follow the resting places [T, 3] as a damped spring does: hair that swings after the head."""
    place, velocity = rest[0].copy(), np.zeros(3)
    followed = np.empty_like(rest)
    for frame, goal in enumerate(rest):
        velocity = 0.78 * velocity + 0.10 * (goal - place)
        place = place + velocity
        followed[frame] = goal + 0.8 * np.clip(place - goal, -0.15, 0.15)
    return followed


def _legs(points, body, feet, foot_yaw, swing, lift, leg_pose):
    """Points [T, 3] by name: each leg from its hip in `points` to its foot or, if lifted, into its pose."""
    legs = {}
    for number, (side, sign) in enumerate(SIDES):
        hip = points[f"{side}_hip"]
        raised = lift[:, number, None]
        outward = leg_pose[:, number, :3] * (sign, 1, 1)
        ankle = feet[:, number] * (1 - raised) + raised * (hip + _rotated(body, outward))
        opened = 0.25 + 0.5 * (leg_pose[:, number, 0] < 0) * lift[:, number]
        way = np.stack([sign * np.sin(opened), np.full_like(opened, 0.25), np.cos(opened)], axis=1)
        knee, ankle = _bend(hip, ankle, THIGH, SHIN, _rotated(body, way))
        flat = _rotations(1, foot_yaw[:, number])[..., 2]
        pointed = np.clip(0.9 * raised + 0.35 * swing[:, number, None], 0, 0.9)
        sole = _unit((1 - pointed) * flat + pointed * _unit(ankle - knee))
        under = 0.045 * _unit(np.cross(np.cross((0, 1, 0), flat), sole))
        toe = ankle + under + 0.15 * sole
        toe[:, 1] = toe[:, 1].clip(ANKLE_HEIGHT - 0.045)
        legs |= {f"{side}_knee": knee, f"{side}_ankle": ankle,
                 f"{side}_heel": ankle + under - 0.04 * sole, f"{side}_toe": toe}
    return legs


def _bend(root, end, upper, lower, way):
    """Two-bone inverse kinematics: the middle joint, towards `way`, and the end where it can be reached."""
    line = end - root
    distance = np.linalg.norm(line, axis=1, keepdims=True)
    direction = line / distance
    reach = distance.clip(0.25, 0.998 * (upper + lower))
    cosine = (upper**2 + reach**2 - lower**2) / (2 * upper * reach)
    aside = _unit(way - _dot(way, direction)[:, None] * direction)
    middle = root + upper * (cosine * direction + np.sqrt(1 - cosine**2) * aside)
    return middle, root + reach * direction


def _arms(points, chest, angles):
    """Points [T, 3] by name: each arm from its shoulder in `points`, by angles [T, 2, 4] as in ARM_POSES."""
    arms = {}
    for number, (side, sign) in enumerate(SIDES):
        elevation, azimuth, bend, way = angles[:, number].T
        bend = bend.clip(0.05, 2.5)[:, None]
        upper = _direction(elevation, azimuth)
        lifting = _direction(elevation + math.pi / 2, azimuth)
        closing = _direction(np.full_like(azimuth, math.pi / 2), azimuth + math.pi / 2)
        fore = np.cos(bend) * upper
        fore += np.sin(bend) * (np.cos(way)[:, None] * lifting + np.sin(way)[:, None] * closing)
        upper, fore = (_rotated(chest, part * (sign, 1, 1)) for part in (upper, fore))
        elbow = points[f"{side}_shoulder"] + UPPER_ARM * upper
        arms |= {f"{side}_elbow": elbow, f"{side}_wrist": elbow + FOREARM * fore,
                 f"{side}_hand": elbow + (FOREARM + HAND) * fore}
    return arms


def _direction(elevation, azimuth):
    """Unit vectors [T, 3] (outward, up, forward): elevation from straight down, azimuth to the front."""
    level = np.sin(elevation)
    return np.stack([level * np.cos(azimuth), -np.cos(elevation), level * np.sin(azimuth)], axis=1)


def _rotated(rotations, vectors):
    """Rotations [T, 3, 3] on vectors [T, 3]."""
    return (rotations @ vectors[..., None])[..., 0]


def _unit(vectors):
    """Vectors [..., 3] made 1 long."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-6)


def _dot(vectors, directions):
    return (vectors * directions).sum(axis=-1)


def _rotations(axis, angles):
    """Rotations [T, 3, 3] by angles [T] about axis 0, 1 or 2."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrices = np.tile(np.eye(3), (len(angles), 1, 1))
    matrices[:, first, first] = matrices[:, second, second] = np.cos(angles)
    matrices[:, second, first] = np.sin(angles)
    matrices[:, first, second] = -np.sin(angles)
    return matrices
