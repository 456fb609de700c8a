"""The conditional VAE: the five networks, and the loss of a clip."""

from torch import nn

from . import networks, pyramid
from .losses import RECONSTRUCTIONS, kl_divergence, mean_squared_error
from .rollout import next_input, rollout

NETWORKS = {"template": networks, "pyramid": pyramid}


class VAE_Model(nn.Module):
    """Predicts a frame from the frame before it, the frame's label and a latent z.

    network: `template` (modules/networks.py) or `pyramid` (modules/pyramid.py).
    posterior: what the Gaussian predictor sees in training besides the label: the `previous`
    frame, as the decoder does, or the `current` one that is to be predicted (as in SVG, Denton &
    Fergus 2018, arXiv:1802.07687).
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
        """[N, ., .] of z for frames of that height and width: at the network's lowest resolution, rounded up."""
        return self.dimensions["N_dim"], -(-height // self.z_stride), -(-width // self.z_stride)

    def predict(self, frame_features, label_features, z):
        """Features of the input frame, features of the label and z, [B, ., ., .] each -> the frame, [B, 3, H, W]."""
        return self.Generator(self.Decoder_Fusion(frame_features, label_features, z))

    def forward(self, frames, labels, draw_noise, beta, teacher_forced=None, reconstruction="mse",
                **rollout_settings):
        """Loss of a batch of clips, [B, T, 3, H, W] each, in [0, 1].

        beta: weight of the KL; draw_noise, teacher_forced and the settings: see `rollout`.
        reconstruction: the term that stands beside the KL in the loss; see `losses.RECONSTRUCTIONS`.
        Returns {"loss", "mse", "kl"}, each a sum over the predicted frames 1..T-1, and the frame that is
        the input of the step after the clip, [B, 3, H, W], without gradient.
        """
        error = mse = kl = 0
        steps = rollout(self, frames, labels, draw_noise, teacher_forced, **rollout_settings)
        for t, step in enumerate(steps, start=1):
            error = error + RECONSTRUCTIONS[reconstruction](step.frame, frames[:, t])
            mse = mse + mean_squared_error(step.frame, frames[:, t])
            kl = kl + kl_divergence(step.mu, step.logvar)
        following = next_input(step.frame.detach(), frames, teacher_forced, t)
        return {"loss": error + beta * kl, "mse": mse, "kl": kl}, following
