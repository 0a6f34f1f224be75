"""Means and deviations are those of pixels in [0, 1], in every problem type, before anything is trained."""

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from convatlas.config.composition import compose
from convatlas.data.normalization import check_mean, check_std
from convatlas.errors import UserError

IMAGENET_255 = ["data.mean=[123.675,116.28,103.53]", "data.std=[58.395,57.12,57.375]"]
PROBLEMS = {
    "classification": ["data.in_channels=3"],
    "segmentation": ["data=shapes_masks"],
    "detection": ["data=shapes_objects"],
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            IMAGENET_255,
            r"data\.mean=\[123\.675, .*expected means in \[0, 1\]; divide by 255: \[0\.485, 0\.456, 0\.406\]",
        ),
        (IMAGENET_255[1:], r"data\.std=\[58\.395, .*from 1e-05 to 1; divide by 255: \[0\.229, 0\.224, 0\.225\]"),
        (["data.std=[0,0,0]"], r"data\.std=\[0, 0, 0\]: .*expected standard deviations from 1e-05 to 1'"),
        (["data.std=[0.2,0.2,-0.2]"], r"data\.std=\[0\.2, 0\.2, -0\.2\]"),
        (["data.std=[nan,0.2,0.2]"], r"data\.std=\[nan, 0\.2, 0\.2\]"),
        (["data.mean=[inf,0.2,0.2]"], r"data\.mean=\[inf, 0\.2, 0\.2\]"),
        (["data.mean=[0.5,0.5,-0.1]"], r"data\.mean=\[0\.5, 0\.5, -0\.1\]"),
    ],
)
def test_numbers_that_pixels_in_the_unit_interval_cannot_have_are_refused(
    problem: str, overrides: list[str], message: str
) -> None:
    grey = ["data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]"]
    with pytest.raises(InstantiationException) as caught:
        instantiate(compose("train", [*PROBLEMS[problem], *grey, *overrides]).data)
    assert isinstance(caught.value.__cause__, UserError)
    assert caught.match(message)


def test_the_usual_numbers_are_accepted() -> None:
    for mean, std in (((0, 0, 0), (1, 1, 1)), ((0.5,), (0.5,)), ((0.485, 0.456, 0.406), (1 / 255, 1 / 255, 1 / 255))):
        check_mean("data.mean", mean)
        check_std("data.std", std)


def test_the_deviations_of_colour_noise_are_checked_too() -> None:
    overrides = ["data.in_channels=3", *("data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]"), "augment=alexnet"]
    with pytest.raises(InstantiationException, match=r"augment\.batch\.lighting\.std .*divide by 255: \[0\.2"):
        instantiate(compose("train", [*overrides, "augment.batch.lighting.std=[58.395,57.12,57.375]"]).data)
