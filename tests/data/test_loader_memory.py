"""The memory that a loader takes is that of the batches it prepares."""

import subprocess
import sys
from pathlib import Path

from tests.fixtures import PEAK_MEMORY, write_image_folder
from tests.gates import PATIENCE

BATCH_BYTES = 256 * 3 * 224 * 224
PREFETCH, THREADS = 4, 2
OTHER_BYTES = 96 * 2**20
"""Decoders and their scratch, code that is loaded on first use, what the allocator keeps."""

SCRIPT = f"""
{PEAK_MEMORY}
import sys, time
from hydra.utils import instantiate
from convatlas.config.composition import compose

overrides = ["data=imagefolder", "data.root=" + sys.argv[1], "data.global_batch_size=256", "data.val_fraction=0.05"]
data = instantiate(compose("train", [*overrides, "data.prefetch=" + sys.argv[2], "data.threads=" + sys.argv[3]]).data)
before = peak()
for loader in (data.train_dataloader(), data.test_dataloader()):
    epoch, batches = loader.plan()
    loader.plan = lambda: (epoch, batches[:1] * 12)
    images = 0
    for number, batch in enumerate(loader):
        images += len(batch.labels)
        if number == 2:
            while peak() - before < int(sys.argv[2]) * 256 * 3 * 224 * 224:
                time.sleep(0.05)  # until what it may prepare ahead is prepared, however slow the machine
            time.sleep(2)  # and a loader that prepares more has the time for it
    assert images == 12 * 256
print(peak() - before)
"""


def test_peak_memory_is_that_of_the_prefetched_batches(tmp_path: Path) -> None:
    """At batch 256 and 224 pixels: one batch in use, prefetch + 1 on their way, 38.5 MB each."""
    root = write_image_folder(tmp_path, ["a", "b"], per_class=140, size=256)
    command = [sys.executable, "-c", SCRIPT, str(root), str(PREFETCH), str(THREADS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    peak = int(done.stdout)
    assert peak <= (PREFETCH + 2) * BATCH_BYTES + OTHER_BYTES
