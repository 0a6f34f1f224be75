"""The mean over views and over networks, against the sums written out."""

import torch

from convatlas.models.classification.resnet import CifarResNet
from convatlas.models.classification.vgg import VGG
from convatlas.tasks.classification.ensembles import Ensemble, MultiView


def net(seed: int) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet(depth=8, num_classes=5).eval()


@torch.no_grad()
def test_views_of_different_sizes_count_alike() -> None:
    classifier = net(0)
    images = [
        [torch.randn(2, 3, 32, 32), torch.randn(2, 3, 40, 36)],
        [torch.randn(4, 3, 32, 32)],
        [torch.randn(2, 3, 36, 40), torch.randn(2, 3, 32, 32)],
    ]
    expected = torch.stack(
        [torch.cat([classifier(stack).softmax(dim=1) for stack in stacks]).mean(dim=0) for stacks in images]
    )
    torch.testing.assert_close(MultiView(classifier, fully_convolutional=False)(images).exp(), expected)


@torch.no_grad()
def test_fully_convolutional_views_average_scores_before_softmax() -> None:
    torch.manual_seed(0)
    classifier = VGG(configuration="A", stem="small", num_classes=5).eval()
    views = torch.randn(2, 3, 64, 96)
    scores = torch.stack(
        [classifier(views[:, :, top : top + 32, left : left + 32]) for top in (0, 32) for left in (0, 32, 64)]
    )
    # Windows of the image see padding at their borders, where the whole image has neighbours: close, not equal.
    by_windows = scores.mean(dim=0).softmax(dim=1).mean(dim=0)
    features = classifier.forward_features(views)
    by_hand = torch.stack(
        [classifier.classifier(features[:, :, row, column]) for row in range(2) for column in range(3)]
    )
    expected = by_hand.mean(dim=0).softmax(dim=1).mean(dim=0)
    probabilities = MultiView(classifier, fully_convolutional=True)([[views]])[0].exp()
    torch.testing.assert_close(probabilities, expected)
    assert (probabilities - by_windows).abs().max() < 0.1


@torch.no_grad()
def test_an_ensemble_is_the_mean_of_its_members_probabilities() -> None:
    first, second = net(0), net(1)
    images = torch.randn(3, 3, 32, 32)
    expected = (first(images).softmax(dim=1) + second(images).softmax(dim=1)) / 2
    torch.testing.assert_close(Ensemble([first, second])(images).exp(), expected)
    views = [[image[None]] for image in images]
    members = [MultiView(member, fully_convolutional=False) for member in (first, second)]
    torch.testing.assert_close(Ensemble(members)(views).exp(), expected)


@torch.no_grad()
def test_the_loss_of_a_sure_mistake_stays_finite() -> None:
    classifier = net(0)
    classifier.fc.weight *= 1e4
    images = torch.randn(2, 3, 32, 32)
    assert classifier(images).softmax(dim=1).min() == 0
    assert Ensemble([classifier, classifier])(images).isfinite().all()
