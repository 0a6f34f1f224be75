"""A new classification network takes three files and a line in the table of public names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convatlas.config.public_names import TABLE

REPOSITORY = Path(__file__).parents[2]
COPIED = ("src", "conf", "pipelines", "benchmarks", "tests", "pyproject.toml")
NETWORK = '''"""A network of one convolution."""

from torch import nn

from convatlas.models.classification.classifier import FullyConnectedClassifier


class TinyNet(FullyConnectedClassifier):
    """One convolution and one linear layer."""

    image_size = 32
    classifier_name = "classifier.0"

    def __init__(self, *, width: int = 4, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_features = 16 * width
        self.maps = {1: "conv1"}
        self.features = nn.Sequential(nn.Conv2d(in_channels, width, 3, stride=2, padding=1), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Sequential(nn.Identity())
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.classifier[0] = nn.Linear(self.num_features, num_classes)
'''
MODEL = """# A network of one convolution: 0.01 M parameters at 10 classes.
defaults:
  - /task/classification@_here_
  - _self_
name: tiny_cifar
net:
  _target_: convatlas.models.TinyNet
"""
EXPERIMENT = """# @package _global_
# The network of one convolution on the embedded images.
defaults:
  - override /model: tiny_cifar
"""


@pytest.mark.slow
def test_three_files_and_a_line_add_a_network(tmp_path: Path) -> None:
    for name in COPIED:
        source = REPOSITORY / name
        skipped = shutil.ignore_patterns("__pycache__", "a11ee17")
        shutil.copytree(source, tmp_path / name, ignore=skipped) if source.is_dir() else shutil.copy(source, tmp_path)
    (tmp_path / "src/convatlas/models/classification/tiny.py").write_text(NETWORK, encoding="utf-8")
    (tmp_path / "conf/model/tiny_cifar.yaml").write_text(MODEL, encoding="utf-8")
    (tmp_path / "conf/experiment/tiny_cifar.yaml").write_text(EXPERIMENT, encoding="utf-8")
    table = tmp_path / "src/convatlas/config/public_names.py"
    vgg = f'        "convatlas.models.VGG": "{TABLE["classifier"]["convatlas.models.VGG"]}",\n'
    line = '        "convatlas.models.TinyNet": "convatlas.models.classification.tiny.TinyNet",\n'
    text = table.read_text(encoding="utf-8")
    assert text.count(vgg) == 1
    table.write_text(text.replace(vgg, line + vgg), encoding="utf-8")

    def python(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    passed = python("pytest", "-q", "tests/models/test_zoo.py", "tests/models/test_variants.py", "-k", "tiny_cifar")
    assert int(passed.split(" passed")[0].split()[-1]) >= 5
    assert "Finished 1 epochs" in python("convatlas", "train", "experiment=tiny_cifar", "debug=fast")
    assert "tiny_cifar" in python("convatlas", "list", "model")
