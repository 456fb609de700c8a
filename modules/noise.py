"""Random numbers for a batch of clips."""

import torch


class Noise:
    """A random stream for each clip, so that a clip draws the same numbers in any batch.

    generators: one torch.Generator a clip. device: where the numbers are wanted.
    """

    def __init__(self, generators, device):
        self.generators, self.device = generators, device

    @classmethod
    def seeded(cls, seed, clips, device):
        """Streams on the CPU, clip i seeded `seed + i`: the same numbers on every device."""
        return cls([torch.Generator().manual_seed(seed + i) for i in range(clips)], device)

    def normal(self, *shape):
        """Standard normal numbers, [B, *shape]."""
        return self._draw(torch.randn, shape)

    def uniform(self, *shape):
        """Uniform numbers in [0, 1), [B, *shape]."""
        return self._draw(torch.rand, shape)

    def _draw(self, draw, shape):
        drawn = [draw(shape, generator=generator, device=generator.device) for generator in self.generators]
        return torch.stack(drawn).to(self.device, non_blocking=True)


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
