"""The conditional VAE: one time step, and the loss of a clip."""

import math

import torch
from torch import nn

from . import networks, pyramid
from .losses import RECONSTRUCTIONS, kl_divergence, mse_loss
from .pixels import shifted, to_unit
from .rollout import Step, forced_rollout, next_input, rollout

NETWORKS = {"template": networks, "pyramid": pyramid}


class VAE_Model(nn.Module):
    """Predict a frame from the frame before it, the frame's label and a latent z.

    network: `template` (networks.py) or `pyramid` (pyramid.py).
    posterior: the frame that the Gaussian predictor sees in training, besides the label: the `previous` one, as in the
    course, or the `current` one that is to be predicted (SVG; Denton & Fergus 2018, arXiv:1802.07687). With `previous`
    it knows no more than the decoder: z cannot tell it anything of the frame to predict, and a KL of 0 is the best.
    """

    def __init__(self, F_dim=128, L_dim=32, N_dim=12, D_out_dim=192, posterior="previous", network="template"):
        super().__init__()
        parts = NETWORKS[network]
        self.dimensions = {"F_dim": F_dim, "L_dim": L_dim, "N_dim": N_dim, "D_out_dim": D_out_dim}
        self.posterior = posterior
        self.z_stride = parts.Z_STRIDE
        self.frame_transformation = parts.RGB_Encoder(3, F_dim)
        self.label_transformation = parts.Label_Encoder(3, L_dim)
        self.Gaussian_Predictor = parts.Gaussian_Predictor(F_dim + L_dim, N_dim)
        self.Decoder_Fusion = parts.Decoder_Fusion(F_dim + L_dim + N_dim, D_out_dim)
        self.Generator = parts.Generator(D_out_dim, 3)

    def z_shape(self, height, width):
        """Shape [N, h', w'] of z for frames of this height and width."""
        return self.dimensions["N_dim"], math.ceil(height / self.z_stride), math.ceil(width / self.z_stride)

    def encode_labels(self, labels):
        """Encode labels, uint8 or in [0, 1]: [..., 3, H, W] -> [..., L, h, w].

        Always in float32: BatchNorm enlarges the rounding of a white background in bfloat16, by half a dB.
        """
        with torch.autocast(labels.device.type, enabled=False):
            features = self.label_transformation(to_unit(labels).flatten(0, -4))
        return features.unflatten(0, labels.shape[:-3])

    @torch.no_grad()
    def fix_label_norm(self, labels):
        """Give the label encoder's BatchNorm the mean and variance that it sees over these labels, uint8 [N, 3, H, W].

        In eval mode it is an affine map with these, whatever else is in the batch: the same in training as in a
        rollout. A network without BatchNorm stays as it is.
        """
        encoder = self.label_transformation
        norms = [layer for layer in encoder.modules() if isinstance(layer, nn.BatchNorm2d)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        was_training = encoder.training
        encoder.train()
        for norm in norms:
            norm.momentum = 1.0  # the running averages become those of this batch
        self.encode_labels(labels)
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        encoder.train(was_training)

    def step(self, frame, label_features, epsilon, current=None, temperature=None, shift=None):
        """Predict frame t from frame t-1 and label t.

        frame: [B, 3, H, W]; label_features: [B, L, h, w]; epsilon: standard normal noise, [B, N, h', w'].
        current: the true frame t, for the posterior `current`.
        temperature: None: z from the posterior; a number: z from the prior N(0, temperature^2 I).
        shift: by how many pixels frame, label and current were shifted to the right, int64 [B]; None: by none.
        """
        frame_features = self.frame_transformation(frame)  # [B, F, h, w]
        label_features = label_features.to(frame_features.dtype)
        if temperature is None:
            seen = frame_features if current is None else self.frame_transformation(current)
            z, mu, logvar = self.Gaussian_Predictor(seen, label_features, epsilon)  # [B, N, h', w'] each
        else:
            z, mu, logvar = temperature * epsilon, None, None
        fused = self.Decoder_Fusion(frame_features, label_features, z.to(frame_features.dtype))  # [B, D, h, w]
        prediction = self.Generator(fused, shift).to(frame.dtype)  # [B, 3, H, W]
        return Step(prediction, mu, logvar)

    def forward(self, frames, labels, noise, beta, teacher_forced=None, reconstruction="mse", images_at_once=1,
                random_shift=False, all_forced=None, clamp=False, input_noise=0.0, recompute=False):
        """Compute the loss of a batch of clips, frames and labels [B, T, 3, H, W] each.

        beta: weight of the KL. reconstruction: `mse` or `log_mse`. teacher_forced: bool [B, T], on the device, or
        None. images_at_once: images computed as one batch where all frames are forced. random_shift: shift each clip
        sideways by a random number of pixels. all_forced: whether all frames are forced, if the caller knows; looking
        into `teacher_forced` would wait for a GPU. clamp, input_noise, recompute: see `rollout`.
        Returns {"loss", "mse", "kl"}, sums over the frames 1..T-1 and means over the clips, and the input of the step
        after the clip, [B, 3, H, W], without gradient.
        """
        if all_forced is None:
            all_forced = teacher_forced is not None and bool(teacher_forced.all())
        shift = None
        if random_shift:
            shift = (noise.uniform() * frames.shape[-1]).long()  # [B]
            frames, labels = shifted(frames, shift), shifted(labels, shift)
        settings = {"clamp": clamp, "input_noise": input_noise, "shift": shift, "recompute": recompute}
        if all_forced:
            steps = forced_rollout(self, frames, labels, noise, images_at_once, **settings)
        else:
            steps = rollout(self, frames, labels, noise, teacher_forced, **settings)
        predicted, mu, logvar = (torch.stack(part, dim=1) for part in zip(*steps))  # [B, T-1, ...] each
        truth = frames[:, 1:]
        reconstruction_loss = RECONSTRUCTIONS[reconstruction](predicted, truth)  # of the prediction, forced or not
        kl = kl_divergence(mu, logvar)
        loss = reconstruction_loss + beta * kl
        following = next_input(predicted[:, -1].detach(), frames, teacher_forced, t=-1)
        # on from the true number where one is not finite: this optimizer step is skipped, the next need not be
        following = torch.where(following.isfinite(), following, frames[:, -1])
        if random_shift:
            following = shifted(following, -shift)
        return {"loss": loss, "mse": mse_loss(predicted.detach(), truth), "kl": kl}, following
