"""The base types of all data sets: a source of images, and the splits that use one each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar, get_args

from convatlas.data.class_list import ClassList
from convatlas.data.digests import FileDigests
from convatlas.data.images.decode import Background, Picture

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class ImageSource(Protocol):
    """Images that can be read in any order, by several threads at once."""

    background: Background
    """The colour behind transparent pixels; ``set_background`` sets it."""

    def __len__(self) -> int:
        """Number of images."""

    def open(self, index: int) -> Picture:
        """Open one image, to be decoded as far as it is needed."""

    def path(self, index: int) -> str:
        """Name one image for a message."""

    def digests(self, files: FileDigests) -> dict[str, str]:
        """Compute a digest of each part of the source. A changed image, label or order changes a digest.

        Args:
            files: Computes the digests of the files of images and labels.
        """


SourceT = TypeVar("SourceT", bound=ImageSource, covariant=True)


@dataclass(frozen=True)
class Dataset(Generic[SourceT]):
    """The splits of a data set.

    Args:
        class_list: The classes, in order.
        train: Training images.
        test: The reported split.
        val: The tuning split, or None to cut it from ``train``.
        passed_over: Number of files in the folders that are not among the images, by suffix.
    """

    class_list: ClassList
    train: SourceT
    test: SourceT
    val: SourceT | None = None
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, SourceT]:
        """The source of each split that the data set has, in order."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {split: source for split, source in splits.items() if source is not None}
