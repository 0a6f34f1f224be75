"""What is done to a batch: every number drawn per sample, applied to all samples without waiting for the device."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torchvision.transforms import v2

from convatlas.data.transforms.on_device import (
    EIGENVALUES,
    EIGENVECTORS,
    BatchStep,
    Lighting,
    Mix,
    RandomErasing,
    partners,
)
from convatlas.errors import UserError

SIZE = 16
STD = (0.229, 0.224, 0.225)
STEPS: list[Any] = [Lighting(std=STD), RandomErasing(p=0.7), Mix(p=0.9)]


def images(count: int, channels: int = 3, size: int = SIZE) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(count))


def drawn(step: BatchStep | Mix, count: int, size: int = SIZE) -> Tensor:
    return torch.from_numpy(np.stack([step.draw(np.random.default_rng([1, seed]), size) for seed in range(count)]))


def outputs(result: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Images, and behind them the label weights of ``Mix``."""
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_draws_are_a_function_of_the_generator_and_as_wide_as_said(step: Any) -> None:
    draws = drawn(step, 50)
    assert (draws.shape, draws.dtype) == ((50, step.width), torch.float32)
    assert torch.equal(draws, drawn(step, 50))
    assert len({tuple(row) for row in draws.tolist()}) > 30


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_batch_is_the_same_however_its_pairs_are_parted(step: Any, memory_format: torch.memory_format) -> None:
    batch, draws = images(12).to(memory_format=memory_format), drawn(step, 12)
    whole = outputs(step(batch, draws))
    parts = [outputs(step(batch[some], draws[some])) for some in (slice(2), slice(2, 8), slice(8, 12))]
    for ours, parted in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(ours, torch.cat(parted))
    assert whole[0].is_contiguous(memory_format=memory_format)
    assert torch.equal(batch, images(12))  # what came in is left alone


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_the_device_never_waits_for_the_host(step: Any) -> None:
    with FakeTensorMode():
        batch, draws = (torch.empty(shape, device="cuda") for shape in ((6, 3, SIZE, SIZE), (6, step.width)))
        assert {each.device.type for each in outputs(step(batch, draws))} == {"cuda"}
        with pytest.raises(DataDependentOutputException):  # so this would be seen
            draws[0, 0].item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_a_gpu_has_the_cpus_pixels_and_never_waits(step: Any) -> None:
    batch, draws = images(6), drawn(step, 6)
    on_device = batch.cuda(), draws.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = step(*on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, expected in zip(outputs(result), outputs(step(batch, draws)), strict=True):
        torch.testing.assert_close(ours.cpu(), expected)


def test_lighting_adds_one_colour_to_each_image() -> None:
    shift = Lighting(std=STD)(images(4), drawn(Lighting(std=STD), 4)) - images(4)
    assert shift.flatten(2).std(dim=2).max() < 1e-6
    assert shift[:, :, 0, 0] == pytest.approx(drawn(Lighting(std=STD), 4), abs=1e-6)


def test_lighting_has_the_papers_covariance_in_pixels() -> None:
    offsets = drawn(Lighting(std=STD, alpha_std=0.1), 20000).double().numpy() * STD
    expected = EIGENVECTORS @ np.diag((0.1 * EIGENVALUES) ** 2) @ EIGENVECTORS.T
    assert np.cov(offsets.T) == pytest.approx(expected, abs=1e-5)
    assert offsets.mean(axis=0) == pytest.approx(np.zeros(3), abs=5e-4)


def test_the_principal_components_are_orthonormal() -> None:
    products = EIGENVECTORS.T @ EIGENVECTORS
    assert products == pytest.approx(np.eye(3), abs=2e-3)


def test_lighting_of_greyscale_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"augment.batch.lighting: .*expected 3 channels, not 1"):
        Lighting(std=(0.5,))


def test_erasing_sets_just_the_box_to_the_mean() -> None:
    batch = images(3, channels=1)
    erased = RandomErasing()(batch, torch.tensor([[2.0, 3, 4, 5], [0, 0, 0, 0], [0, 0, 16, 1]]))
    expected = batch.clone()
    expected[0, :, 2:6, 3:8] = 0
    expected[2, :, :, 0] = 0
    assert torch.equal(erased, expected)


def test_erased_boxes_lie_inside_the_image_and_in_their_ranges() -> None:
    draws = drawn(RandomErasing(p=0.6, scale=(0.1, 0.3), ratio=(0.5, 2.0)), 3000, size=100)
    boxes = draws[draws[:, 2] > 0]
    top, left, height, width = boxes.unbind(1)
    assert len(boxes) == pytest.approx(1800, abs=110)
    assert (draws == draws.round()).all()
    assert min(top.min(), left.min()) == 0
    assert max((top + height).max(), (left + width).max()) == 100
    share, ratio = height * width / 100**2, height / width
    assert (float(share.min()), float(share.max())) == pytest.approx((0.1, 0.3), abs=0.01)
    assert (float(ratio.min()), float(ratio.max())) == pytest.approx((0.5, 2.0), abs=0.05)
    assert share.mean() == pytest.approx(0.2, abs=0.005)
    assert ratio.log().mean() == pytest.approx(0.0, abs=0.04)


def test_erasing_pixels_are_torchvisions_for_the_same_box(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = v2.RandomErasing(p=1.0)
    box = {"i": 3, "j": 1, "h": 7, "w": 9, "v": torch.zeros(1, 1, 1)}
    monkeypatch.setattr(peer, "make_params", lambda _: box)
    ours = RandomErasing()(images(1), torch.tensor([[3.0, 1, 7, 9]]))
    assert torch.equal(ours[0], peer(images(1)[0]))


def test_mixing_uses_the_first_draw_of_a_pair_for_both() -> None:
    batch = images(4)
    first, second = [0.7, 0, 0, 0, 0], [1.0, 2, 3, 8, 8]
    mixed, weights = Mix()(batch, torch.tensor([first, second, second, first]))
    assert torch.allclose(mixed[0], 0.7 * batch[0] + 0.3 * batch[1], atol=1e-6)
    assert torch.allclose(mixed[1], 0.7 * batch[1] + 0.3 * batch[0], atol=1e-6)
    for own, partner in ((2, 3), (3, 2)):
        expected = batch[own].clone()
        expected[:, 2:10, 3:11] = batch[partner, :, 2:10, 3:11]
        assert torch.equal(mixed[own], expected)
    assert weights.tolist() == pytest.approx([0.7, 0.7, 0.75, 0.75])
    assert weights.dtype == torch.float32


def test_partners_are_neighbours() -> None:
    assert partners(torch.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cut", [False, True], ids=["mixup", "cutmix"])
def test_images_and_labels_are_torchvisions_for_the_same_numbers(
    cut: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Mix(switch_probability=float(cut))
    draw = step.draw(np.random.default_rng(seed), SIZE)
    weight, top, left, height, width = draw.tolist()
    peer: Any = v2.CutMix(num_classes=5) if cut else v2.MixUp(num_classes=5)
    box = tuple(map(int, (left, top, left + width, top + height)))
    params = {"box": box, "lam_adjusted": 1 - height * width / SIZE**2} if cut else {"lam": weight}
    monkeypatch.setattr(peer, "make_params", lambda _: params)
    labels = torch.tensor([4, 1])
    expected_images, expected_labels = peer(images(2), labels)

    mixed, weights = step(images(2), torch.from_numpy(np.stack([draw, draw])))
    one_hot = torch.nn.functional.one_hot(labels, 5)
    mixed_labels = weights[:, None] * one_hot + (1 - weights)[:, None] * partners(one_hot)
    torch.testing.assert_close(mixed, expected_images)
    torch.testing.assert_close(mixed_labels, expected_labels)


def test_a_labels_weight_is_the_share_of_its_pixels() -> None:
    ones = torch.ones(2000, 1, SIZE, SIZE)
    ones[1::2] = 0
    mixed, weights = Mix()(ones, drawn(Mix(), 2000))
    share = mixed.mean(dim=(1, 2, 3))
    torch.testing.assert_close(weights[0::2], share[0::2])
    torch.testing.assert_close(1 - weights[1::2], share[1::2])


def test_mixups_weight_is_beta_distributed() -> None:
    weight = drawn(Mix(mixup_alpha=0.4, switch_probability=0.0), 10000)[:, 0]
    assert weight.mean() == pytest.approx(0.5, abs=0.015)
    assert weight.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.006)


def test_cutmix_boxes_are_square_but_for_the_border_and_around_a_uniform_centre() -> None:
    draws = drawn(Mix(cutmix_alpha=1.0, switch_probability=1.0), 10000, size=64)
    weight, top, left, height, width = draws.unbind(1)
    bottom, right = top + height, left + width
    assert (weight == 1).all()
    assert min(top.min(), left.min()) == 0
    assert max(bottom.max(), right.max()) == 64
    inside = (top > 0) & (left > 0) & (bottom < 64) & (right < 64)
    assert torch.equal(height[inside], width[inside])
    # Boxes around uniform centres cover the middle more often than the border, and both halves alike.
    rows = torch.arange(64)
    covered = ((rows >= top[:, None]) & (rows < bottom[:, None])).float().mean(dim=0)
    assert covered[:32].flip(0).tolist() == pytest.approx(covered[32:].tolist(), abs=0.03)
    assert covered[31] > covered[0] + 0.1


def test_a_cutmix_box_that_keeps_half_of_the_image_has_the_root_of_a_half_as_its_side() -> None:
    sides = drawn(Mix(cutmix_alpha=1e6, switch_probability=1.0), 200, size=100)[:, 3:]
    assert sides.max() == 70


def test_the_choice_is_drawn_with_its_probabilities() -> None:
    draws = drawn(Mix(switch_probability=0.25, p=0.8), 5000, size=64)
    mixup, cutmix = draws[:, 0] < 1, draws[:, 3] > 0
    assert not (mixup & cutmix).any()
    assert mixup.float().mean() == pytest.approx(0.6, abs=0.03)
    assert cutmix.float().mean() == pytest.approx(0.2, abs=0.03)


def test_an_odd_batch_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.global_batch_size: a part of 3 images"):
        Mix()(images(3), drawn(Mix(), 3))


@pytest.mark.parametrize(
    ("step", "settings"),
    [
        (Mix, {"mixup_alpha": 0.0}),
        (Mix, {"cutmix_alpha": -1.0}),
        (Mix, {"switch_probability": 1.5}),
        (Mix, {"p": -0.1}),
        (RandomErasing, {"p": 2.0}),
        (RandomErasing, {"scale": (0.0, 0.3)}),
        (RandomErasing, {"scale": (0.5, 0.3)}),
        (RandomErasing, {"ratio": (3.3, 0.3)}),
    ],
)
def test_numbers_outside_their_range_are_refused(step: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"augment\.(batch|mix): {step.__name__}\(.*expected"):
        step(**settings)
