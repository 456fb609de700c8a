"""Random numbers for a batch of clips."""

import torch

from .transfer import to_device


class Noise:
    """A random stream for each clip, so that a clip draws the same numbers in any batch.

    generators: one torch.Generator a clip. device: where the numbers are wanted. steps_at_once: time steps
    whose numbers are drawn in one call, which costs a GPU no more than one step's.
    """

    def __init__(self, generators, device, steps_at_once=1):
        self.generators, self.device, self.steps_at_once = generators, device, steps_at_once
        self.coming = {}  # (kind, shape) -> numbers of the time steps to come, the next one last

    @classmethod
    def seeded(cls, seed, clips, device):
        """Streams on the CPU, clip i seeded `seed + i`: the same numbers on every device."""
        return cls([torch.Generator().manual_seed(seed + i) for i in range(clips)], device)

    def normal(self, *shape):
        """Standard normal numbers for the next time step, [B, *shape]."""
        return self._next("normal", torch.randn, shape)

    def uniform(self, *shape):
        """Uniform numbers in [0, 1) for the next time step, [B, *shape]."""
        return self._next("uniform", torch.rand, shape)

    def _next(self, kind, draw, shape):
        coming = self.coming.get((kind, shape))
        if not coming:
            clips = [draw((self.steps_at_once, *shape), generator=generator, device=generator.device)
                     for generator in self.generators]
            numbers = to_device(torch.stack(clips, dim=1), torch.device(self.device))  # [steps_at_once, B, *shape]
            coming = self.coming[kind, shape] = list(numbers.unbind())[::-1]
        return coming.pop()


class GivenNoise:
    """Noise that the caller hands in, for a rollout without input noise.

    epsilon: the noise of z at the frames 1..T-1, [B, T-1, N, h, w].
    """

    def __init__(self, epsilon):
        self.epsilon, self.drawn = epsilon, 0

    def normal(self, *shape):
        """The noise of the next frame, [B, *shape]."""
        noise = self.epsilon[:, self.drawn]
        self.drawn += 1
        assert noise.shape[1:] == shape, f"noise of shape {list(noise.shape[1:])} was given, {list(shape)} is needed"
        return noise
