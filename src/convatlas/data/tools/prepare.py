"""Write a data set as tar shards in parallel. If the process is killed, finished shards are kept."""

import fcntl
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Any

from convatlas.data.class_list import ClassList
from convatlas.data.legacy_fingerprint import source_fingerprint
from convatlas.data.sources.images import LabelledSource
from convatlas.data.sources.manifest import Manifest, ShardRecord
from convatlas.data.sources.shards import ShardSample, index_path, write_shard
from convatlas.data.tools.recode import Reencode, stored_form
from convatlas.errors import UserError
from convatlas.utils.files import dumps


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Lock a folder while shards are written to it, and report any ``OSError`` in the block as an error of the folder.

    Raises:
        UserError: The folder has other content or cannot be written, or another process writes to it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        visible = any(not path.name.startswith(".") for path in output.iterdir())
        if visible and Manifest.read(output) is None:
            raise UserError(f"output={output}: holds other files; expected a new folder, or one that this verb began")
        with (output / ".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the file stays: another process may have it open
            yield
    except BlockingIOError as error:
        raise UserError(f"output={output}: another process prepares shards there") from error
    except OSError as error:
        raise UserError(f"output={output}: cannot be written ({error.strerror})") from error


def begin(
    output: Path,
    sources: Mapping[str, LabelledSource],
    class_list: ClassList,
    samples_per_shard: int,
    settings: dict[str, Any],
    digests: Mapping[str, str],
) -> Manifest:
    """Assign the samples of each split to shards in order, or continue with the manifest in the folder.

    Args:
        output: The folder of the shards.
        sources: The images of each split.
        class_list: The classes.
        samples_per_shard: Maximum number of samples of a shard.
        settings: Other settings that determine the bytes of a shard, by configuration key.
        digests: Digests of the parts of the sources. Those of a finished folder must be equal.

    Returns:
        The manifest of the folder.

    Raises:
        UserError: The folder has shards of other settings or other images.
    """
    digest = hashlib.sha256(class_list.hash.encode())
    splits = {}
    for split, source in sources.items():
        digest.update(split.encode() + source_fingerprint(source))
        count = len(source.labels)
        splits[split] = [
            ShardRecord(f"{split}-{number:06d}.tar", min(samples_per_shard, count - start))
            for number, start in enumerate(range(0, count, samples_per_shard))
        ]
    manifest = Manifest({"samples_per_shard": samples_per_shard, **settings}, digest.hexdigest(), splits)
    earlier = Manifest.read(output)
    if earlier is None or not earlier.has_finished:
        manifest.write(output)
        return manifest
    for key, value in manifest.settings.items():
        if earlier.settings.get(key) != value:
            there, here = dumps(earlier.settings.get(key)), dumps(value)
            raise UserError(
                f"output={output}: holds shards of {key}={there}, not {here}; expected the same settings, or another "
                "folder"
            )
    before = earlier.images or {}
    other_images = any(before.get(part, digest) != digest for part, digest in digests.items())
    if earlier.source != manifest.source or other_images:
        raise UserError(
            f"output={output}: holds shards of other images or classes; delete it first, or give another folder"
        )
    return earlier


def write_shards(
    output: Path,
    manifest: Manifest,
    sources: Mapping[str, LabelledSource],
    *,
    shrink: Reencode | None,
    in_channels: int,
    threads: int,
    advance: Callable[[int], None],
) -> int:
    """Write the missing shards. Each shard is recorded in the manifest as soon as it is finished.

    Reading, decoding, resizing and encoding release the interpreter lock. Threads were as fast as processes.

    Args:
        output: The folder of the shards.
        manifest: The manifest, which is updated.
        sources: The images of each split.
        shrink: Makes images smaller; None keeps the stored bytes.
        in_channels: 1 for greyscale, 3 for RGB.
        threads: Number of shards that are written at once.
        advance: Called with the number of images that were processed, by one thread at a time.

    Returns:
        The number of shards that already existed with correct checksums.

    Raises:
        UserError: An image cannot be read, or cannot be decoded to make it smaller. The message names it.
        OSError: A shard cannot be written.
    """
    stopped, lock = Event(), Lock()

    def samples(source: LabelledSource, indices: range) -> Iterator[ShardSample]:
        for index in indices:
            if stopped.is_set():
                raise CancelledError
            suffix, content = stored_form(source.encoded(index), shrink, in_channels, source.path(index))
            yield ShardSample(f"{index:08d}.{suffix}", content, int(source.labels[index]))
            with lock:
                advance(1)

    def finish(shard: ShardRecord, source: LabelledSource, start: int) -> bool:
        path = output / shard.name
        if shard.sha256 and (shard.sha256, shard.index_sha256) == (_sha256(path), _sha256(index_path(path))):
            with lock:
                advance(shard.samples)
            return True
        write_shard(path, samples(source, range(start, start + shard.samples)))
        shard.bytes, shard.sha256, shard.index_sha256 = path.stat().st_size, _sha256(path), _sha256(index_path(path))
        return False

    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    try:
        futures = [
            pool.submit(finish, shard, sources[split], number * manifest.settings["samples_per_shard"])
            for split, shards in manifest.splits.items()
            for number, shard in enumerate(shards)
        ]
        kept = 0
        for future in as_completed(futures):
            kept += future.result()
            manifest.write(output)
        return kept
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
