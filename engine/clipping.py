"""Clipping of the gradient: of the whole as in the course, and of each network to what is usual for it."""

import torch
from torch import nn

MAX_NORM = 1  # of the whole gradient, as in the course
CLIP_AT = 2  # the norm of a network's gradient is limited to this many times its running mean
LEAST_LIMIT = 1e-6  # the limit is never lower: from 0 the running mean could not rise again
NORMS_IN_MEAN = 100  # optimizer steps that the running mean spans, about; until then it is the plain mean


class GradientClipper:
    """Limits the norm of a model's gradient to MAX_NORM, and that of each network's to CLIP_AT times its running mean.

    With the template network the norm of the whole is mostly 0.005 to 0.1, most of it the generator's. That of the
    frame encoder is a tenth of it or less, and can be seventy times its usual value in a step that is not unusual as
    a whole; Adam then moves the encoder's weights by some two learning rates at once, and a few such steps have ended
    a training in NaN. AutoClip (Seetharaman et al. 2020, arXiv:2007.14469), too, takes its limit from the norms seen
    so far: a percentile of them.
    """

    def __init__(self, model, device):
        self.networks = {name: list(network.parameters()) for name, network in model.named_children()}
        self.usual_norms = torch.zeros(len(self.networks), device=device)
        self.norms_seen = torch.zeros((), device=device)

    def clip(self):
        """Clip the gradients in place. Returns the norm of the whole before, and whether it is finite; on the device.

        Nothing here waits for a GPU. Where the norm is not finite the gradients are not usable.
        """
        norms = torch.stack([nn.utils.get_total_norm([weight.grad for weight in weights])
                             for weights in self.networks.values()])
        norm = torch.linalg.vector_norm(norms)
        limits = torch.where(self.norms_seen > 0, CLIP_AT * self.usual_norms, MAX_NORM).clamp(min=LEAST_LIMIT)
        for weights, excess in zip(self.networks.values(), torch.maximum(norms / limits, norm / MAX_NORM)):
            nn.utils.clip_grads_with_norm_(weights, 1.0, excess)  # a limit on the device would be waited for
        is_finite = norm.isfinite()
        self.norms_seen += is_finite
        seen = torch.where(is_finite, torch.minimum(norms, limits), self.usual_norms)
        self.usual_norms += (seen - self.usual_norms) / self.norms_seen.clamp(1, NORMS_IN_MEAN)
        return norm, is_finite

    def state_dict(self):
        return {"norms_seen": self.norms_seen.item(), **dict(zip(self.networks, self.usual_norms.tolist()))}

    def load_state_dict(self, state):
        """Go on from a state; from none, {}, as at the start of a training."""
        self.norms_seen.fill_(state.get("norms_seen", 0.0))
        self.usual_norms.copy_(torch.tensor([state.get(name, 0.0) for name in self.networks]))
