"""Preparation of a folder of images: speed and memory, and reading compared with decoding."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from hamjepa_audit.benchmark.parts import PreparationSize
from hamjepa_audit.benchmark.timing import Row, row, seconds
from hamjepa_audit.data.generated import write_image_folder
from hamjepa_audit.data.sources.base import decode_rgb
from hamjepa_audit.data.store import open_store
from hamjepa_audit.data.streaming import StreamedImages
from hamjepa_audit.params.generated import GeneratedParams
from hamjepa_audit.params.sources import ImageFolderParams

PART = "preparation"

MEASURED = """
import json, sys, time
from pathlib import Path
from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.params.sources import ImageFolderParams

source = ImageFolderParams.model_validate_json(sys.argv[1])
started = time.perf_counter()
prepare(source, Path(sys.argv[2]), Path(sys.argv[3]), threads=int(sys.argv[4]))
seconds = time.perf_counter() - started
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
print(json.dumps({"seconds": seconds, "peak": peak}))
"""
"""Script that runs in its own process, on Linux, so that peak memory is that of preparation alone.

`getrusage` is unsuitable: its peak is at least that of the parent process.
"""


def preparation(params: PreparationSize, threads: int) -> Iterator[Row]:
    """Images per second and peak memory, for a tenth of the images and for all; then reading.

    Args:
        params: number of images and their sizes.
        threads: number of decoding threads.
    """
    with tempfile.TemporaryDirectory(prefix="hamjepa-audit-bench-") as scratch:
        folder = Path(scratch)
        _write_pictures(params, folder / "raw")
        for part in ("tenth", "train"):
            source = ImageFolderParams(
                name=part, source="image_folder", image_size=params.image_size, digest=None,
                folder=".", train=(part,), test=("val",), shape="whole",
            )  # fmt: skip
            images = params.images if part == "train" else params.images // 10
            found = _prepare(source, folder, threads)
            yield row(
                PART, f"{images:,} images", images / found["seconds"], "images/s", threads=threads
            )
            yield row(
                f"peak memory, {PART}", f"{images:,} images", found["peak"], "bytes",
                threads=threads,
            )  # fmt: skip
        yield from _reading(params, folder, threads)


def _write_pictures(params: PreparationSize, raw: Path) -> None:
    """Writes two classes in parts `train`, `tenth`, `val`; most files are links to a few images."""
    distinct = params.distinct
    pictures = GeneratedParams(
        classes=2,
        images={"val": distinct},
        sides=params.sides,
        jpeg_quality=params.jpeg_quality,
        seed=0,
    )
    write_image_folder(raw, pictures, np.random.default_rng(pictures.seed))
    originals = {path: sorted(path.iterdir()) for path in (raw / "val").iterdir()}
    for part, images in (("train", params.images), ("tenth", params.images // 10)):
        for place, files in originals.items():
            target = raw / part / place.name
            target.mkdir(parents=True)
            for number in range(images // 2):
                (target / f"{number:06d}.JPEG").hardlink_to(files[number % distinct])


def _prepare(source: ImageFolderParams, folder: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURED, source.model_dump_json(), str(folder / "raw"),
               str(folder / "data"), str(threads)]  # fmt: skip
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(result.stdout)
    return found


def _reading(params: PreparationSize, folder: Path, threads: int) -> Iterator[Row]:
    """Images per second of random batches read from the store, and of decoding the same files."""
    split = open_store(folder / "data" / "train").train
    files = sorted((folder / "raw" / "train").glob("*/*"))
    shuffled = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))
    order = shuffled[: len(shuffled) // 4].split(params.batch_size)
    cpu = torch.device("cpu")
    read = StreamedImages(split, cpu)

    def from_store() -> None:
        for _ in read.batches(order):
            pass

    def decoded() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for samples in order:
                list(pool.map(lambda row: decode_rgb(files[row], "a picture"), samples.tolist()))

    images = sum(map(len, order))
    for implementation, work in (("store", from_store), ("JPEG decoded", decoded)):
        rate = images / seconds(cpu, work)
        yield row("images of a batch", implementation, rate, "images/s", threads=threads,
                  batch_size=params.batch_size)  # fmt: skip
