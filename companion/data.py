"""Real data: the digits that come with a package, MNIST and CIFAR-10 from a folder or downloaded into one."""

import hashlib
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA_VARIABLE = "COMPANION_DATA"
# What scikit-learn's digits are split into; they are in no particular order of difficulty, so a seeded shuffle will do.
DIGITS_TRAIN, DIGITS_SEED = 1297, 0
ARCHIVE = "cifar10.npz"
# SHA-256 of the classes, in their order, of a copy whose images all went through JPEG: figures measured on it say so.
JPEG_COPY = "b84471b23938f9b3"


@dataclass(frozen=True)
class Dataset:
    """Images with their classes, for training and for testing.

    Attributes
    ----------
    name : str
        The data's name as a table has to give it.
    train_inputs, test_inputs : Tensor, shapes (N, channels, rows, columns)
        float32, between 0 and 1.
    train_targets, test_targets : Tensor, shapes (N,)
        Classes 0 … 9, int64.
    digest : str
        The first 16 hexadecimal digits of the SHA-256 of all of it.
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    digest: str

    def standardized(self) -> "Dataset":
        """With the mean and the deviation of each channel over the training images taken out."""
        mean = self.train_inputs.mean((0, 2, 3), keepdim=True)
        deviation = self.train_inputs.std((0, 2, 3), keepdim=True)
        inputs = {k: (getattr(self, k) - mean) / deviation for k in ("train_inputs", "test_inputs")}
        return replace(self, **inputs)


def digits(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits that scikit-learn carries.

    Returns
    -------
    inputs : Tensor, shape (1797, 64)
        8 × 8 pixels, row by row, between 0 and 1.
    targets : Tensor, shape (1797,)
        The digit, 0 … 9.
    """
    from sklearn.datasets import load_digits  # half a second of import

    data = load_digits()
    return torch.from_numpy(data.data).to(dtype) / 16, torch.from_numpy(data.target).long()


def load_dataset(name: str, folder: Path | str | None = None) -> Dataset:
    """A data set by name.

    Parameters
    ----------
    name : {"digits", "mnist", "cifar10"}
    folder : path, optional
        Where ``MNIST/raw`` or ``cifar-10-batches-py`` lies, as torchvision leaves them, or
        ``cifar10.npz`` with the arrays ``x_train, y_train, x_test, y_test`` (uint8, images last
        dimension colour).  Nothing is downloaded into it.  By default the folder that the variable
        COMPANION_DATA names, or else the user's cache, into which torchvision downloads.

    Raises
    ------
    ValueError
        If the name is not one of these.
    FileNotFoundError
        If the data are not there: the message says what was looked for, where, and what brings it.
    """
    if name not in LOADERS:
        raise ValueError(f"data must be one of {', '.join(LOADERS)}, got {name!r}")
    folder = folder or os.environ.get(DATA_VARIABLE) or None
    return _load(name, None if folder is None else Path(folder))


def cache_folder() -> Path:
    """Where downloaded data are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flat-minima"


@lru_cache(maxsize=2)
def _load(name: str, folder: Path | None) -> Dataset:
    title, *arrays = LOADERS[name](folder)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]
    x, y, x_test, y_test = arrays
    if hashlib.sha256(y.astype(np.uint8).tobytes()).hexdigest()[:16] == JPEG_COPY:
        title = "CIFAR-10, JPEG q75 copy"
    scale = 16 if name == "digits" else 255
    inputs = [torch.from_numpy(array).float().div_(scale) for array in (x, x_test)]
    targets = [torch.from_numpy(np.asarray(array)).long() for array in (y, y_test)]
    return Dataset(title, inputs[0], targets[0], inputs[1], targets[1], digest)


def _digits(folder: Path | None) -> tuple:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(DIGITS_SEED).permutation(len(data.target))
    images, classes = data.images[order, None].astype(np.uint8), data.target[order]
    train = slice(DIGITS_TRAIN)
    test = slice(DIGITS_TRAIN, None)
    return "scikit-learn's digits", images[train], classes[train], images[test], classes[test]


def _mnist(folder: Path | None) -> tuple:
    from torchvision.datasets import MNIST

    train, test = _torchvision(MNIST, folder, "MNIST/raw with its four files")
    arrays = [(part.data.numpy()[:, None], part.targets.numpy()) for part in (train, test)]
    return "MNIST", *arrays[0], *arrays[1]


def _cifar10(folder: Path | None) -> tuple:
    archive = (folder or cache_folder()) / ARCHIVE
    if archive.exists():
        with np.load(archive) as file:
            x, y, x_test, y_test = (file[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    else:
        from torchvision.datasets import CIFAR10

        train, test = _torchvision(CIFAR10, folder, f"cifar-10-batches-py, or {ARCHIVE},")
        (x, y), (x_test, y_test) = ((part.data, np.array(part.targets)) for part in (train, test))
    return "CIFAR-10", x.transpose(0, 3, 1, 2), y, x_test.transpose(0, 3, 1, 2), y_test


def _torchvision(kind, folder: Path | None, what: str) -> list:
    """The training and the test part, downloaded only into the cache."""
    where = folder or cache_folder()
    try:
        return [kind(where, train=train, download=folder is None) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"no {what} in {where}. Put the data there, or leave out --data and the variable {DATA_VARIABLE} "
            f"to download them into {cache_folder()} ({error})"
        ) from error


LOADERS = {"digits": _digits, "mnist": _mnist, "cifar10": _cifar10}
