"""The conditional VAE: the five networks, and the loss of a clip."""

from torch import nn

from .losses import kl_divergence, mean_squared_error
from .networks import Decoder_Fusion, Gaussian_Predictor, Generator, Label_Encoder, RGB_Encoder
from .rollout import next_input, rollout


class VAE_Model(nn.Module):
    """Predicts a frame from the frame before it, the frame's label and a latent z.

    posterior: what the Gaussian predictor sees in training besides the label: the `previous`
    frame, as the decoder does, or the `current` one that is to be predicted (as in SVG, Denton &
    Fergus 2018, arXiv:1802.07687).
    """

    def __init__(self, F_dim=128, L_dim=32, N_dim=12, D_out_dim=192, posterior="previous"):
        super().__init__()
        self.dimensions = {"F_dim": F_dim, "L_dim": L_dim, "N_dim": N_dim, "D_out_dim": D_out_dim}
        self.posterior = posterior
        self.frame_transformation = RGB_Encoder(3, F_dim)
        self.label_transformation = Label_Encoder(3, L_dim)
        self.Gaussian_Predictor = Gaussian_Predictor(F_dim + L_dim, N_dim)
        self.Decoder_Fusion = Decoder_Fusion(F_dim + L_dim + N_dim, D_out_dim)
        self.Generator = Generator(D_out_dim, 3)

    def predict(self, frame_features, label_features, z):
        """Features of the input frame, features of the label and z, [B, ., H, W] each -> the frame."""
        return self.Generator(self.Decoder_Fusion(frame_features, label_features, z))

    def forward(self, frames, labels, draw_noise, beta, teacher_forced=None, **rollout_settings):
        """Loss of a batch of clips, [B, T, 3, H, W] each, in [0, 1].

        beta: weight of the KL; draw_noise, teacher_forced and the settings: see `rollout`.
        Returns {"loss", "mse", "kl"}, each a sum over the predicted frames 1..T-1, and the frame that is
        the input of the step after the clip, [B, 3, H, W], without gradient.
        """
        mse = kl = 0
        steps = rollout(self, frames, labels, draw_noise, teacher_forced, **rollout_settings)
        for t, step in enumerate(steps, start=1):
            mse = mse + mean_squared_error(step.frame, frames[:, t])
            kl = kl + kl_divergence(step.mu, step.logvar)
        following = next_input(step.frame.detach(), frames, teacher_forced, t)
        return {"loss": mse + beta * kl, "mse": mse, "kl": kl}, following
