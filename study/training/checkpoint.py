"""How is a loop's state kept so that a crash at any moment leaves one that is whole?

A checkpoint is a safetensors file, which holds no code to run, and beside it its SHA-256 in the form that ``sha256sum
--check`` reads. The checksum is written last: a file without a right one is no checkpoint, and the one before is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch

from study.records import sync_folder, write_atomically
from study.training.loop import State

SAFETENSORS_TYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bool: "BOOL",
    torch.uint8: "U8",
}
# The largest part of the time that checkpoints may take which nothing but an epoch's end asks for.
WORTH_SPENDING = 0.02


class Pace:
    """When is a checkpoint due: every so many minutes, and at an epoch's end unless saving costs more than 2 %."""

    def __init__(self, *, every_minutes: float) -> None:
        self.every = 60 * every_minutes
        self.saved = time.monotonic()
        self.cost = 0.0

    def due(self, *, epoch_ended: bool) -> bool:
        """Whether to save now."""
        passed = time.monotonic() - self.saved
        return passed >= self.every or (epoch_ended and self.cost <= WORTH_SPENDING * passed)

    def save(self, folder: Path, state: State) -> None:
        """Save (see :func:`save`) and take the time of it."""
        started = time.monotonic()
        save(folder, state)
        self.saved = time.monotonic()
        self.cost = self.saved - started


def save(folder: Path, state: State) -> Path:
    """Write ``state`` to ``folder``, where only the newest of the earlier ones stays; returns the file.

    The disk never holds more than two, the one that is being written among them. Raises OSError when it is full; the
    earlier checkpoint is untouched by then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epochs-{len(state.values['epochs']):04d}-step-{state.values['step']:09d}.safetensors"
    for old in _newest_first(folder)[1:]:
        _delete(old)
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            checksum = _write(file, state)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(folder)
    write_atomically(_checksum_path(path), f"{checksum}  {path.name}\n".encode())
    return path


def load_newest(folder: Path) -> State | None:
    """The newest whole checkpoint, None where there is none; warns of each that is not whole, and deletes it.

    What a writer that was killed has left goes too, so the folder must be no one else's.
    """
    for part in list(folder.glob("*.part")):
        part.unlink()
    for path in _newest_first(folder):
        if not _is_whole(path):
            warnings.warn(f"{path} is not whole: training goes on from the checkpoint before it", stacklevel=2)
            _delete(path)
            continue
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        return State(tensors=safetensors.torch.load_file(path), values=json.loads(metadata["values"]))
    return None


def delete_all(folder: Path) -> None:
    """Delete the checkpoints, and their folder, of a trajectory that has ended."""
    shutil.rmtree(folder, ignore_errors=True)


def _write(file: BinaryIO, state: State) -> str:
    """Write the safetensors format, one tensor after the other, and return the SHA-256 of all of it.

    The library's own writers gather a copy of everything in memory first, which takes six times as long.
    """
    largest_first = sorted(state.tensors.items(), key=lambda item: -item[1].dtype.itemsize)  # so all are aligned
    tensors = {name: tensor.detach().contiguous() for name, tensor in largest_first}
    checksum = hashlib.sha256()
    header = _header(tensors, {"values": json.dumps(state.values)})
    for content in (len(header).to_bytes(8, "little"), header):
        file.write(content)
        checksum.update(content)
    for tensor in tensors.values():
        bytes_ = tensor.cpu().reshape(-1).view(torch.uint8).numpy().data
        file.write(bytes_)
        checksum.update(bytes_)
    return checksum.hexdigest()


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        kind = SAFETENSORS_TYPES[tensor.dtype]
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    return header + b" " * (-len(header) % 8)


def _is_whole(path: Path) -> bool:
    try:
        expected = _checksum_path(path).read_bytes().split()
    except FileNotFoundError:
        return False
    with path.open("rb") as file:
        return expected[:1] == [hashlib.file_digest(file, "sha256").hexdigest().encode()]


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epochs-*.safetensors"), reverse=True)


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _delete(path: Path) -> None:
    _checksum_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
