"""CIFAR-100: its archive is checked before it is opened, and downloaded only if allowed."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import verify_store
from hamjepa_audit.params.sources import CifarParams
from tests.unit import preparing
from tests.unit.preparing import contents, rejects

raw = preparing.raw

CIFAR = CifarParams(
    name="cifar100",
    source="cifar100",
    image_size=32,
    digest=None,
    folder="cifar",
    download=False,
)


@pytest.fixture
def cifar(raw: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive in CIFAR-100's format, with its checksums patched into torchvision."""
    from torchvision.datasets import CIFAR100

    numbers = np.random.default_rng(0)
    files = {"meta": {"fine_label_names": ["apple", "bee"]}}
    for split, labels in (("train", [1, 0, 1]), ("test", [0, 1])):
        pixels = numbers.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        files[split] = {"data": pixels, "fine_labels": labels}  # type: ignore[dict-item]
    archive = raw / "cifar" / "tiny.tar.gz"
    archive.parent.mkdir()
    md5 = {}
    with tarfile.open(archive, "w:gz") as packed:
        for name, content in files.items():
            pickled = pickle.dumps(content)
            md5[name] = hashlib.md5(pickled).hexdigest()
            entry = tarfile.TarInfo(f"{CIFAR100.base_folder}/{name}")
            entry.size = len(pickled)
            packed.addfile(entry, io.BytesIO(pickled))
    monkeypatch.setattr(CIFAR100, "url", "https://example.org/tiny.tar.gz")
    monkeypatch.setattr(CIFAR100, "filename", archive.name)
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": md5["meta"]})
    return raw


def test_cifar_from_its_archive(cifar: Path, tmp_path: Path) -> None:
    before = contents(cifar)
    store = verify_store(prepare(CIFAR, cifar, tmp_path / "prepared").parent)
    assert store.manifest.classes == ("apple", "bee")
    assert store.train.labels.tolist() == [1, 0, 1]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    np.testing.assert_array_equal(store.train.images, pixels.reshape(3, 3, 32, 32))
    assert contents(cifar) == before


def test_cifar_archive_of_another_checksum_is_not_opened(
    cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = cifar / "cifar" / "tiny.tar.gz"
    with archive.open("ab") as stream:
        stream.write(b"more")
    for module, name in ((tarfile, "open"), (pickle, "load")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("opened"))
    found = hashlib.md5(archive.read_bytes()).hexdigest()
    rejects(CIFAR, cifar, archive, found, "https://example.org/tiny.tar.gz")


def test_cifar_archive_that_can_not_be_read(cifar: Path) -> None:
    archive = cifar / "cifar" / "tiny.tar.gz"
    archive.unlink()
    archive.mkdir()
    rejects(CIFAR, cifar, archive, "can't read the raw data of 'cifar100'", "Is a directory")


def test_cifar_archive_that_may_not_be_downloaded(cifar: Path) -> None:
    archive = cifar / "cifar" / "tiny.tar.gz"
    archive.unlink()
    rejects(CIFAR, cifar, archive, "download is false", "https://example.org/tiny.tar.gz")


def no_network(*_: Any, **__: Any) -> None:
    raise URLError("Network is unreachable")


def test_cifar_without_network(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = cifar / "cifar" / "tiny.tar.gz"
    archive.unlink()
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    source = CIFAR.model_copy(update={"download": True})
    rejects(source, cifar, archive, "Network is unreachable", "https://example.org/tiny.tar.gz")
    assert contents(cifar / "cifar") == []


def test_cifar_is_unpacked_by_the_first_pythons_311(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractall = tarfile.TarFile.extractall
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda self, path: extractall(self, path))
    assert prepare(CIFAR, cifar, tmp_path / "prepared").exists()


def test_cifar_download_is_moved_into_place(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = cifar / "cifar" / "tiny.tar.gz"
    content = archive.read_bytes()
    archive.unlink()

    def download(url: str, root: str, filename: str, md5: str) -> None:
        assert md5 == hashlib.md5(content).hexdigest()
        (Path(root) / filename).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    prepare(CIFAR.model_copy(update={"download": True}), cifar, tmp_path / "prepared")
    assert contents(cifar / "cifar") == [archive]


def test_cifar_archive_in_place_needs_no_network(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    prepare(CIFAR.model_copy(update={"download": True}), cifar, tmp_path / "prepared")


def test_cifar_archive_of_other_files(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    monkeypatch.setattr(CIFAR100, "test_list", [["other", "0" * 32]])
    rejects(CIFAR, cifar, cifar / "cifar" / "tiny.tar.gz", "does not unpack")


def test_cifar_of_another_size(cifar: Path) -> None:
    rejects(CIFAR.model_copy(update={"image_size": 64}), cifar, "image_size is 64", "32")
