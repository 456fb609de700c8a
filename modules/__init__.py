"""The method: the networks of the conditional VAE, its time loop, its loss and its metrics. Tensors in, tensors out."""

from .model import VAE_Model
from .networks import Decoder_Fusion, Gaussian_Predictor, Generator, Label_Encoder, RGB_Encoder

__all__ = ["Decoder_Fusion", "Gaussian_Predictor", "Generator", "Label_Encoder", "RGB_Encoder", "VAE_Model"]
