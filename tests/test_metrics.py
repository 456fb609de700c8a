"""PSNR, SSIM, the course's score and the trivial predictors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine import evaluation
from engine.evaluation import baselines, mean_image, nearest_images, score_all
from engine.testing.course import course_score
from modules.metrics import in_chunks, median_frame, person_psnr, psnr, ssim, summarise
from modules.pixels import to_unit


def random_images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_pixels(*shape, seed=0):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_psnr_is_of_each_image_by_itself():
    true = random_images(4, 5, 3, 6, 7)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    strength = torch.logspace(-4, 0, 20, dtype=torch.float64).reshape(4, 5, 1, 1, 1)
    predicted = true + strength * noise
    ours = psnr(predicted, true)
    assert ours.shape == (4, 5)
    for place in np.ndindex(4, 5):
        error = np.mean((np.clip(predicted[place].numpy(), 0, 1) - true[place].numpy()) ** 2)
        assert ours[place].item() == pytest.approx(-10 * np.log10(error), rel=1e-9)


def test_mean_psnr_is_the_mean_over_frames_and_not_that_of_the_mean_error():
    true = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    predicted = torch.stack([torch.full_like(true[0], 0.1), torch.full_like(true[0], 0.001)])
    assert psnr(predicted, true).tolist() == pytest.approx([20, 60])
    videos = torch.cat([true[:1], predicted]), torch.cat([true[:1], true])
    assert summarise([videos[0]], [videos[1]])["psnr"] == pytest.approx(40)


def test_psnr_of_a_perfect_image_is_100_and_never_more():
    true = random_images(3, 3, 4, 4)
    assert psnr(true, true).tolist() == [100, 100, 100]
    assert psnr(true + 1e-9, true).max() == 100
    assert psnr(true.float() - 5, true.float()).isfinite().all()


def test_psnr_and_ssim_clamp_the_prediction():
    true, predicted = random_images(3, 3, 12, 12), 3 * random_images(3, 3, 12, 12, seed=1) - 1
    for metric in (psnr, ssim):
        torch.testing.assert_close(metric(predicted, true), metric(predicted.clamp(0, 1), true))


def plain_ssim(x, y, size):
    """Wang et al. (2004), window by window: float64 images [3, H, W]."""
    offsets = np.arange(size) - size // 2
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for a, b in zip(x, y):
        for top in range(a.shape[0] - size + 1):
            for left in range(a.shape[1] - size + 1):
                p, q = (image[top:top + size, left:left + size] for image in (a, b))
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                variance_p = (window * (p - mean_p) ** 2).sum()
                variance_q = (window * (q - mean_q) ** 2).sum()
                covariance = (window * (p - mean_p) * (q - mean_q)).sum()
                values.append((2 * mean_p * mean_q + 1e-4) * (2 * covariance + 9e-4)
                              / ((mean_p**2 + mean_q**2 + 1e-4) * (variance_p + variance_q + 9e-4)))
    return np.mean(values)


@pytest.mark.parametrize("height, width, size", [(13, 17, 11), (11, 11, 11), (8, 16, 7), (10, 5, 5)])
def test_ssim_equals_its_definition(height, width, size):
    true = random_images(3, height, width)
    predicted = (0.7 * true + 0.3 * random_images(3, height, width, seed=1)).clamp(0, 1)
    expected = plain_ssim(predicted.numpy(), true.numpy(), size)
    assert ssim(predicted, true).item() == pytest.approx(expected, rel=1e-9)


def test_ssim_is_1_for_equals_symmetric_and_of_each_image_by_itself():
    first, second = random_images(2, 4, 2, 3, 12, 14)
    assert ssim(first, first).tolist() == [[pytest.approx(1)] * 2] * 4
    together = ssim(first, second)
    torch.testing.assert_close(together, ssim(second, first))
    assert together.shape == (4, 2) and together.abs().max() < 1
    for place in np.ndindex(4, 2):
        torch.testing.assert_close(ssim(first[place], second[place]), together[place])


def test_summary_never_counts_the_given_frame():
    true = random_images(7, 3, 12, 12)
    predicted = (true + 0.1).clamp(0, 1)
    other_start = predicted.clone()
    other_start[0] = true[0]
    scores = summarise([predicted, true], [true, true])
    assert scores == summarise([other_start, true], [true, true])
    assert scores["psnr"] == pytest.approx((psnr(predicted[1:], true[1:]).mean().item() + 100) / 2)
    assert summarise([true], [true]) == pytest.approx(
        {"psnr": 100, "ssim": 1, "psnr_person": 100, "psnr_first_100": 100, "psnr_last_100": 100})


def test_summary_tells_the_first_100_frames_from_the_last():
    true = torch.zeros(231, 3, 4, 4)
    predicted = true.clone()
    predicted[1:101], predicted[101:131], predicted[131:] = 0.01, 0.5, 0.1
    scores = summarise([predicted], [true])
    assert scores["psnr_first_100"] == pytest.approx(40, abs=1e-4)
    assert scores["psnr_last_100"] == pytest.approx(20, abs=1e-4)


def a_walk(frames=60, height=16, width=32):
    """A red square that walks over a dark background with a faint pattern: the frames, where it is, the background."""
    stage = 0.2 + 0.02 * random_images(3, height, width)
    red = torch.tensor([0.9, 0.2, 0.2], dtype=torch.float64).view(3, 1, 1)  # in one channel it differs
    square = torch.zeros(frames, 1, height, width, dtype=torch.bool)
    for t in range(frames):
        left = t * (width - 6) // (frames - 1)
        square[t, :, 4:12, left:left + 6] = True
    return torch.where(square, red, stage), square, stage


def test_median_frame_is_of_all_frames():
    """Not of the first 256 alone, in which somebody stands still."""
    true, _, stage = a_walk()
    torch.testing.assert_close(median_frame([true[:1].expand(256, -1, -1, -1), stage.expand(300, -1, -1, -1)]), stage)


@pytest.mark.parametrize("differing, shows_a_person", [(0, False), (1, False), (5, False), (6, True)])
def test_a_person_has_a_hundredth_of_the_pixels(differing, shows_a_person):
    _, _, stage = a_walk(height=16, width=32)
    true = stage.clone()
    true[0].flatten()[:differing] += 0.5
    assert person_psnr(true, true, stage).isfinite() == shows_a_person


def test_psnr_of_the_person_counts_the_pixels_of_the_person_alone():
    true, square, stage = a_walk()
    torch.testing.assert_close(median_frame([true[:20], true[20:]]), stage)
    wrong_person, wrong_stage = torch.where(square, true - 0.1, true), torch.where(square, true, true + 0.3)
    assert person_psnr(wrong_stage, true, stage).tolist() == [100.0] * len(true)
    torch.testing.assert_close(person_psnr(wrong_person, true, stage), torch.full((len(true),), 20.0, dtype=true.dtype))
    assert psnr(wrong_person, true).min() > 28  # what the background hides
    assert summarise([wrong_person], [true])["psnr_person"] == pytest.approx(20, abs=1e-4)


def test_frames_without_a_person_do_not_count_in_the_psnr_of_the_person():
    true, square, stage = a_walk()
    true[30:] = stage
    predicted = torch.where(square, true - 0.1, true)
    scores = person_psnr(predicted, true, stage)
    assert scores[:30].isfinite().all() and scores[30:].isnan().all()
    assert summarise([predicted], [true])["psnr_person"] == pytest.approx(20, abs=1e-4)
    stage_alone = torch.stack([stage] * 5)
    scores = summarise([predicted, stage_alone], [true, stage_alone])
    assert scores["psnr_person"] == pytest.approx(20, abs=1e-4)  # a video without one does not count either
    assert "psnr_person" not in summarise([stage.expand_as(true)], [stage.expand_as(true)])


def test_course_score_is_of_frames_1_to_600_of_every_sequence():
    true = [random_pixels(630, 3, 2, 2, seed=seed) for seed in range(5)]
    predicted = [random_pixels(630, 3, 2, 2, seed=seed + 10) for seed in range(5)]
    public = [True, True, True, False, False]
    scores = course_score(predicted, true, public)
    each = []
    for ours, theirs in zip(predicted, true):
        error = ((ours[1:601].numpy() / 255 - theirs[1:601].numpy() / 255) ** 2).mean(axis=(1, 2, 3))
        each.append(np.mean(-10 * np.log10(error)))
    expected = {"score": np.mean(each), "public": np.mean(each[:3]), "private": np.mean(each[3:])}
    assert scores == pytest.approx(expected, rel=1e-5)

    for frame, counts in ((0, False), (1, True), (600, True), (601, False), (629, False)):
        changed = [video.clone() for video in predicted]
        for video, theirs in zip(changed, true):
            video[frame] = theirs[frame]
        assert (course_score(changed, true, public) != scores) == counts, frame


def test_course_score_of_the_parts_it_is_told_and_of_missing_ones():
    true = [random_pixels(5, 3, 2, 2, seed=seed) for seed in range(2)]
    predicted = [random_pixels(5, 3, 2, 2, seed=seed + 10) for seed in range(2)]
    alone = [course_score([ours], [theirs], [True])["score"] for ours, theirs in zip(predicted, true)]
    mean = pytest.approx(np.mean(alone), rel=1e-5)
    assert course_score(predicted, true, [True, True]) == {"score": mean, "public": mean, "private": None}
    assert course_score(predicted, true, public=[False, True]) == {
        "score": mean, "public": alone[1], "private": alone[0]}


def nearest(train, labels):
    """The videos of the nearest-label baseline, [B, T, 3, H, W], for labels [B, T, 3, H, W]."""
    return torch.stack(dict(baselines(train, labels[:, 0], labels))["nearest label"])


def test_nearest_label_finds_a_label_of_the_training_set_in_every_chunk(monkeypatch):
    monkeypatch.setattr(evaluation, "NUMBERS_AT_ONCE", 4096 * 3 * 2 * 3)  # of 9,001 images three chunks
    labels = random_pixels(9001, 3, 2, 3)
    train = SimpleNamespace(frames=labels.flip(0), labels=labels)
    wanted = torch.tensor([[0, 1, 4095], [4096, 8192, 9000]])
    assert torch.equal(nearest(train, labels[wanted]), train.frames[wanted])


def test_nearest_label_finds_real_labels_however_alike_they_are(dancer):
    from dataloader import Dataset_Dance

    labels = Dataset_Dance(dancer, None, "train", 1, frame_size=(32, 64)).labels
    assert torch.equal(nearest(SimpleNamespace(frames=labels, labels=labels), labels[None]), labels[None])


@pytest.mark.parametrize("seed", range(3))
def test_nearest_label_is_of_least_distance(seed):
    labels, asked = random_pixels(50, 3, 2, 3, seed=seed), random_pixels(2, 4, 3, 2, 3, seed=seed + 50)
    found = nearest(SimpleNamespace(frames=labels, labels=labels), asked)
    for place in np.ndindex(2, 4):
        distances = [np.sum((asked[place].numpy() / 255 - label.numpy() / 255) ** 2) for label in labels]
        assert torch.equal(found[place], labels[int(np.argmin(distances))])


@pytest.mark.parametrize("images_at_once", [1, 7, 50, 4096])
def test_chunks_of_a_comparison_change_nothing(images_at_once, monkeypatch):
    images, queries = random_pixels(50, 3, 2, 3), random_pixels(9, 3, 2, 3, seed=1)
    indices = nearest_images(queries, images)
    monkeypatch.setattr(evaluation, "NUMBERS_AT_ONCE", images_at_once * images[0].numel())
    np.testing.assert_allclose(mean_image(images), images.numpy().mean(axis=0) / 255, rtol=1e-6)
    assert torch.equal(nearest_images(queries, images), indices)


def test_chunks_of_a_metric_change_nothing():
    prediction, target = random_pixels(2, 10, 3, 16, 16)
    for metric in (psnr, ssim):
        whole = metric(to_unit(prediction), to_unit(target))
        for frames in (1, 3, 64):
            torch.testing.assert_close(in_chunks(metric, prediction, target, frames), whole)


def test_videos_of_the_baselines_have_the_length_of_their_labels():
    labels = [random_pixels(length, 3, 4, 4, seed=length) for length in (6, 3)]
    frames = random_pixels(2, 3, 4, 4, seed=1)
    train = SimpleNamespace(frames=random_pixels(10, 3, 4, 4), labels=random_pixels(10, 3, 4, 4, seed=1))
    for name, videos in baselines(train, frames, labels):
        assert [video.shape for video in videos] == [label.shape for label in labels], name
        assert all(video.dtype == torch.uint8 for video in videos)
    videos = dict(baselines(train, frames, labels))
    assert all(torch.equal(video, frame.expand(video.shape)) for video, frame in zip(videos["first frame"], frames))
    mean = (mean_image(train.frames) * 255).round().to(torch.uint8)
    assert all(torch.equal(video, mean.expand(video.shape)) for video in videos["mean frame"])


def test_each_predictor_is_scored_on_every_video():
    labels, truth, predicted = ([random_pixels(length, 3, 16, 16, seed=seed + length) for length in (6, 4)]
                                for seed in (0, 10, 20))
    train = SimpleNamespace(frames=random_pixels(10, 3, 16, 16), labels=random_pixels(10, 3, 16, 16, seed=1))
    scores = score_all(predicted, truth, labels, train)
    first = [true[:1].expand_as(true) for true in truth]
    assert scores["first frame"] == summarise(first, truth) != scores["mean frame"]
    assert scores["nearest label"] == summarise([train.frames[nearest_images(label, train.labels)]
                                                 for label in labels], truth)
    assert scores["this model"] == summarise(predicted, truth)
    assert score_all(predicted, truth, labels, None) == {"this model": scores["this model"]}
