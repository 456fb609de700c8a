"""A program written against the course's template runs with our `modules` and `dataloader`, unchanged."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from conftest import TINY_NETWORK, call_script, flags
from dataloader import Dataset_Dance
from engine.testing.perceptual import import_transforms
from modules import Decoder_Fusion, Gaussian_Predictor, Generator, Label_Encoder, RGB_Encoder
from modules.model import VAE_Model as OurModel
from modules.noise import GivenNoise

transforms = import_transforms()
F, L, N, D = TINY_NETWORK.values()
HEIGHT, WIDTH, LENGTH = 8, 16, 6


class StudentModel(nn.Module):
    """What students of the course write: the five networks, and a loop over the frames of a clip."""

    def __init__(self):
        super().__init__()
        self.frame_transformation = RGB_Encoder(3, F)
        self.label_transformation = Label_Encoder(3, L)
        self.Gaussian_Predictor = Gaussian_Predictor(F + L, N)
        self.Decoder_Fusion = Decoder_Fusion(F + L + N, D)
        self.Generator = Generator(input_nc=D, output_nc=3)
        self.mse_criterion = nn.MSELoss()
        self.optim = torch.optim.Adam(self.parameters(), lr=0.001)

    def training_step(self, img, label, beta, teacher_forcing):
        img, label = img.permute(1, 0, 2, 3, 4), label.permute(1, 0, 2, 3, 4)  # time first
        decoded, mse, kld = img[0], 0.0, 0.0
        for i in range(1, len(img)):
            source = img[i - 1] if teacher_forcing else decoded
            frame_feat = self.frame_transformation(image=source)
            label_feat = self.label_transformation(image=label[i])
            z, mu, logvar = self.Gaussian_Predictor(img=frame_feat, label=label_feat)
            decoded = self.Generator(input=self.Decoder_Fusion(img=frame_feat, label=label_feat, parm=z))
            mse = mse + self.mse_criterion(decoded, img[i])
            kld = kld - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(mu)
        loss = mse + beta * kld
        self.optim.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optim.step()
        return loss.item()


@pytest.fixture
def loader(dancer):
    transform = transforms.Compose([transforms.Resize((HEIGHT, WIDTH)), transforms.ToTensor()])
    dataset = Dataset_Dance(root=str(dancer), transform=transform, mode="train", video_len=LENGTH, partial=0.5)
    return DataLoader(dataset, batch_size=2, num_workers=1, drop_last=True, shuffle=False)


def test_students_loop_trains_and_its_checkpoint_is_tested_by_our_tester(loader, dancer, tmp_path):
    torch.manual_seed(0)
    model = StudentModel().train()
    losses = [model.training_step(img, label, 1e-4, teacher_forcing=epoch == 0) for epoch in range(6)
              for img, label in loader]
    assert losses[-1] < losses[0] / 2
    torch.save({"state_dict": model.state_dict(), "lr": 0.001, "tfr": 1.0, "last_epoch": 5}, tmp_path / "student.ckpt")
    call_script(tmp_path, "Tester", "--ckpt_path", "student.ckpt", "--DR", dancer, "--no-make_gif",
                *flags(device="cpu", save_root="out"))
    assert (tmp_path / "out/submission.csv").is_file()


def test_items_of_the_dataset_are_a_pair_of_clips(loader):
    img, label = next(iter(loader))
    assert img.shape == label.shape == (2, LENGTH, 3, HEIGHT, WIDTH) and img.dtype == torch.float32
    assert 0 <= img.min() and img.max() <= 1
    assert len(loader.dataset) == 35 // LENGTH
    assert len(Dataset_Dance(root=loader.dataset.root, transform=None, mode="train")) == 70 // 7


def test_reparameterize_draws_z_with_the_moments_of_the_posterior():
    torch.manual_seed(0)
    predictor = Gaussian_Predictor(in_chans=F + L, out_chans=N)
    mu, logvar = torch.full((1, N, 200, 200), 0.5), torch.full((1, N, 200, 200), -1.0)
    z = predictor.reparameterize(mu, logvar)
    assert z.mean().item() == pytest.approx(0.5, abs=0.01)
    assert z.std().item() == pytest.approx(torch.tensor(-0.5).exp().item(), abs=0.01)
    assert not torch.equal(z, predictor.reparameterize(mu, logvar))
    epsilon = torch.randn_like(mu)
    torch.testing.assert_close(predictor.reparameterize(mu, logvar, epsilon), mu + (logvar / 2).exp() * epsilon)


@pytest.mark.parametrize("network, arguments", [
    (RGB_Encoder, {"in_chans": 3, "out_chans": F}), (Label_Encoder, {"in_chans": 3, "out_chans": L}),
    (Label_Encoder, {"in_chans": 3, "out_chans": L, "norm_layer": nn.InstanceNorm2d}), (Gaussian_Predictor, {}),
    (Decoder_Fusion, {}), (Generator, {"input_nc": D, "output_nc": 3})])
def test_constructors_take_the_templates_keywords(network, arguments):
    assert sum(weights.numel() for weights in network(**arguments).parameters()) > 0


@pytest.mark.parametrize("teacher_forcing", [True, False])
def test_students_loss_is_ours_for_the_same_noise(loader, teacher_forcing, monkeypatch):
    torch.manual_seed(0)
    student, ours = StudentModel().eval(), OurModel(**TINY_NETWORK).eval()
    ours.load_state_dict(student.state_dict())
    img, label = next(iter(loader))
    epsilon = torch.randn(2, LENGTH - 1, N, HEIGHT, WIDTH)
    forced = torch.full(img.shape[:2], teacher_forcing)
    terms, _ = ours(img, label, GivenNoise(epsilon), 1e-4, forced)
    draws = iter(epsilon.unbind(1))
    monkeypatch.setattr(torch, "randn_like", lambda mu: next(draws))
    assert student.training_step(img, label, 1e-4, teacher_forcing) == pytest.approx(terms["loss"].item(), rel=1e-5)
