"""companion/data.py: the digits, and what lies in a folder, as they are; scaled to 0 … 1."""

import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from companion.data import digits, load_dataset


def test_the_digits_are_scikit_learns():
    inputs, targets = digits()
    raw = load_digits()
    assert inputs.shape == (1797, 64) and targets.shape == (1797,)
    np.testing.assert_array_equal(inputs.reshape(1797, 8, 8).numpy() * 16, raw.images)
    np.testing.assert_array_equal(targets.numpy(), raw.target)
    assert (inputs.min(), inputs.max()) == (0, 1)
    assert torch.bincount(targets).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert targets.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_type_is_chosen(dtype):
    inputs, _ = digits(dtype)
    assert inputs.dtype == dtype
    assert digits()[0].dtype == torch.float64
    torch.testing.assert_close(inputs.double(), digits()[0], rtol=0, atol=0)  # sixteenths are exact


def test_every_call_gives_data_of_its_own():
    first, labels = digits()
    first.zero_()
    labels.zero_()
    assert digits()[0].max() == 1 and digits()[1].max() == 9


def archive(folder, classes):
    """A tiny data set in the shape of ``cifar10.npz``."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    arrays = {"x_train": images[:4], "x_test": images[4:], "y_train": classes[:4], "y_test": classes[4:]}
    np.savez(folder / "cifar10.npz", **arrays)
    return arrays


def test_the_digits_are_split_once_and_for_all():
    data = load_dataset("digits")
    assert data.train_inputs.shape == (1297, 1, 8, 8) and data.test_inputs.shape == (500, 1, 8, 8)
    everything = torch.cat([data.train_inputs, data.test_inputs]).flatten(1).numpy() * 16
    order = np.lexsort(everything.T)
    raw = load_digits().data
    np.testing.assert_array_equal(everything[order], raw[np.lexsort(raw.T)])
    assert (data.name, data.digest) == ("scikit-learn's digits", load_dataset("digits").digest)
    assert torch.bincount(data.test_targets).min() > 30


def test_an_archive_is_read_as_it_is(tmp_path):
    arrays = archive(tmp_path, np.arange(6) % 10)
    data = load_dataset("cifar10", tmp_path)
    np.testing.assert_allclose(data.train_inputs.numpy() * 255, arrays["x_train"].transpose(0, 3, 1, 2), rtol=1e-6)
    assert data.test_inputs.shape == (2, 3, 4, 4) and data.test_inputs.dtype == torch.float32
    assert data.train_targets.tolist() == [0, 1, 2, 3] and data.train_targets.dtype == torch.int64
    assert data.name == "CIFAR-10"
    (tmp_path / "other").mkdir()
    archive(tmp_path / "other", np.arange(1, 7))
    assert load_dataset("cifar10", tmp_path / "other").digest != data.digest


def test_the_jpeg_copy_is_known_by_its_classes(tmp_path, monkeypatch):
    classes = np.arange(6, dtype=np.uint8)
    archive(tmp_path, classes)
    monkeypatch.setattr("companion.data.JPEG_COPY", hashlib.sha256(classes[:4].tobytes()).hexdigest()[:16])
    assert load_dataset("cifar10", tmp_path).name == "CIFAR-10, JPEG q75 copy"


def test_standardized_images_have_mean_zero_and_deviation_one_by_channel(tmp_path):
    archive(tmp_path, np.arange(6))
    raw, data = load_dataset("cifar10", tmp_path), load_dataset("cifar10", tmp_path).standardized()
    torch.testing.assert_close(data.train_inputs.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(data.train_inputs.std((0, 2, 3)), torch.ones(3), rtol=1e-5, atol=0)
    scale = (raw.test_inputs[0] - raw.test_inputs[1]) / (data.test_inputs[0] - data.test_inputs[1])
    torch.testing.assert_close(scale[:, 0, 0], raw.train_inputs.std((0, 2, 3)), rtol=1e-3, atol=0)
    assert data.train_targets is raw.train_targets


def write_idx(path, array):
    """A file in MNIST's own format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_mnist_is_read_from_its_four_files(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, classes = np.arange(5 * 4 * 4).reshape(5, 4, 4), np.array([3, 1, 4, 1, 5])
    for kind, part in (("train", slice(3)), ("t10k", slice(3, None))):
        write_idx(raw / f"{kind}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{kind}-labels-idx1-ubyte", classes[part])
    data = load_dataset("mnist", tmp_path)
    assert data.train_inputs.shape == (3, 1, 4, 4) and data.test_targets.tolist() == [1, 5]
    np.testing.assert_allclose(data.test_inputs.numpy()[:, 0] * 255, images[3:], rtol=1e-6)


def test_what_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"^data must be one of digits, mnist, cifar10, got 'imagenet'$"):
        load_dataset("imagenet")
    with pytest.raises(
        FileNotFoundError, match=rf"^no MNIST/raw with its four files in {tmp_path}\. Put the data there"
    ):
        load_dataset("mnist", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^no cifar-10-batches-py, or cifar10\.npz, in .*COMPANION_DATA"):
        load_dataset("cifar10", tmp_path)
