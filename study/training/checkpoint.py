"""Saves and loads the loop's state, so that a crash at any moment leaves a whole checkpoint.

A checkpoint is a safetensors file, which holds no code to run, and beside it its SHA-256 in the form that ``sha256sum
--check`` reads. The checksum is written last: a file without a matching one is ignored, and the one before is used.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch

from study.storage import replacing, write_bytes
from study.training.loop import LoopState

SAFETENSORS_TYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bool: "BOOL",
    torch.uint8: "U8",
}
# The largest share of the time that checkpoints at epochs' ends may take.
LARGEST_TIME_SHARE = 0.02
# What a disk or a share writes, until the first checkpoint has shown it.
BYTES_PER_SECOND = 300e6


class CheckpointTimer:
    """Decides when a checkpoint is due: every so many minutes, and at an epoch's end unless that takes over 2 %.

    ``state`` is one of the loop's, all of which are of one size.
    """

    def __init__(self, state: LoopState, *, every_minutes: float) -> None:
        self.every = 60 * every_minutes
        self.saved = time.monotonic()
        self.cost = sum(tensor.nbytes for tensor in state.tensors.values()) / BYTES_PER_SECOND

    def due(self, *, epoch_ended: bool) -> bool:
        """Whether to save now."""
        passed = time.monotonic() - self.saved
        return passed >= self.every or (epoch_ended and self.cost <= LARGEST_TIME_SHARE * passed)

    def save(self, folder: Path, state: LoopState) -> None:
        """Save (see :func:`save`) and time it."""
        started = time.monotonic()
        save(folder, state)
        self.saved = time.monotonic()
        self.cost = self.saved - started


def save(folder: Path, state: LoopState) -> Path:
    """Write ``state`` to ``folder``, where only the newest of the earlier checkpoints is kept; returns the file.

    The disk never holds more than two, including the one that is being written. Raises OSError when it is full; the
    earlier checkpoint is then untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epochs-{len(state.values['epochs']):04d}-step-{state.values['step']:09d}.safetensors"
    for old in _newest_first(folder)[1:]:
        _delete(old)
    with replacing(path) as part, part.open("wb") as file:
        checksum = _write(file, state)
    write_bytes(_checksum_path(path), f"{checksum}  {path.name}\n".encode())
    return path


def load_newest(folder: Path) -> LoopState | None:
    """The newest whole checkpoint, None where there is none; warns of each that is not whole, and deletes it.

    What a writer that was killed has left is deleted too, so no other process may use the folder.
    """
    for part in list(folder.glob(".*.part")):
        part.unlink()
    for path in _newest_first(folder):
        if not _is_whole(path):
            warnings.warn(f"{path} is incomplete: training resumes from the checkpoint before it", stacklevel=2)
            _delete(path)
            continue
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        return LoopState(tensors=safetensors.torch.load_file(path), values=json.loads(metadata["values"]))
    return None


def _write(file: BinaryIO, state: LoopState) -> str:
    """Write the safetensors format, one tensor after the other, and return the SHA-256 of the whole.

    The library's own writers copy everything in memory first, which takes six times as long.
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
