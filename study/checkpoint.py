"""How is a loop's state kept so that a crash at any moment leaves one that is whole?

A checkpoint is a safetensors file, which holds no code to run, and beside it its SHA-256 in the form that ``sha256sum
--check`` reads. The checksum is written last: a file without a right one is no checkpoint, and the one before is used.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import safetensors
import safetensors.torch

from study.finetune import State
from study.records import write_atomically

KEPT = 2


def save(folder: Path, state: State) -> Path:
    """Write ``state`` to ``folder`` and delete all but the newest two; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state.values['step']:09d}.safetensors"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    content = safetensors.torch.save(tensors, metadata={"values": json.dumps(state.values)})
    _checksum_path(path).unlink(missing_ok=True)
    write_atomically(path, content)
    write_atomically(_checksum_path(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())
    for old in _newest_first(folder)[KEPT:]:
        _delete(old)
    return path


def load_newest(folder: Path) -> State | None:
    """The newest whole checkpoint, None where there is none; warns of each that is not whole."""
    for path in _newest_first(folder):
        content = path.read_bytes()
        try:
            expected = _checksum_path(path).read_text().split()[0]
        except (OSError, IndexError):
            expected = ""
        if hashlib.sha256(content).hexdigest() != expected:
            warnings.warn(f"{path} is not whole; going on from the checkpoint before it", stacklevel=2)
            continue
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        return State(tensors=safetensors.torch.load(content), values=json.loads(metadata["values"]))
    return None


def delete_all(folder: Path) -> None:
    """Delete the checkpoints in ``folder``, whose trajectory has ended."""
    for path in _newest_first(folder):
        _delete(path)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _delete(path: Path) -> None:
    _checksum_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
