"""What is wrong with a node, or with the storage as it sees it, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from study.execution.node_facts import Mount, NodeFacts, different_versions

Level = Literal["error", "warning", "ok"]

# Mount options that keep locks on one machine: nfs(5), lustre's mount.lustre(8), mount.cifs(8).
LOCAL_LOCKS = ("nolock", "local_lock=all", "local_lock=flock", "local_lock=posix", "localflock", "nobrl")
# File systems in user space that show a bucket, which has neither appends nor renames (nor locks).
BUCKETS = ("s3fs", "gcsfuse", "goofys", "mount-s3", "mountpoint-s3", "rclone", "blobfuse", "blobfuse2")
# Those that keep locks on their server.
WITH_LOCKS = ("ceph", "ceph-fuse", "glusterfs", "juicefs", "moosefs", "lizardfs", "beegfs")
FEWEST_BYTES, FEWEST_FILES = 2**30, 10_000
# Records carry their writer's clock.
CLOCK_SECONDS = 5.0
# How late a change may be seen.
LATE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of what was found on a node; an ``error`` keeps trials off it, ``unsafe`` ones refuse the storage."""

    level: Level
    node: str
    text: str
    unsafe: bool = False

    def __str__(self) -> str:
        return f"{self.level:<7}  {self.node}  {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node answered: its facts, or why there are none, and how many seconds its clock is off at least."""

    facts: NodeFacts | None
    error: str = ""
    seconds_off: float = 0.0


def judge(node: str, answer: Answer, here: NodeFacts, folder: str) -> list[Finding]:
    """What a node's answer says, compared with the driver's own facts; where nothing is wrong, one line says so."""
    facts = answer.facts
    if facts is None:
        return [Finding(level="error", node=node, text=f"cannot be asked: {answer.error}")]
    if not facts.sees:
        text = f"does not see {folder}; mount the folder that all nodes share there, under the same path"
        found = [Finding(level="error", node=node, text=text)]
    else:
        found = [*_writing(node, facts, here, folder), *_mount(node, facts.mount, folder), *_room(node, facts, folder)]
    found += _code(node, facts, here)
    if abs(answer.seconds_off) > CLOCK_SECONDS:
        side = "ahead of" if answer.seconds_off > 0 else "behind"
        text = f"its clock is {abs(answer.seconds_off):.0f} s {side} the driver's, and records carry it; use NTP"
        found.append(Finding(level="warning", node=node, text=text))
    if not any(finding.level == "error" for finding in found):
        mount = facts.mount.type if facts.mount is not None else "unknown file system"
        text = (
            f"sees {folder} ({mount}, {facts.free_bytes / 1e9:,.0f} GB free), writes as {facts.user}, locks hold; "
            f"encoder-study {facts.versions.get('encoder-study')}, torch {facts.versions.get('torch')}, "
            f"transformers {facts.versions.get('transformers')}, Python {facts.versions.get('python')}"
            + (f", commit {_short(facts.commit)}" if facts.commit else "")
        )
        found.insert(0, Finding(level="ok", node=node, text=text))
    return found


def _short(commit: str) -> str:
    """A commit as git abbreviates it, with a + where the code differs from it."""
    return commit[:7] + ("+" if commit.endswith("+") else "")


def _writing(node: str, facts: NodeFacts, here: NodeFacts, folder: str) -> list[Finding]:
    found = []
    if facts.write_error:
        text = (
            f"user {facts.user} cannot write to {folder} ({facts.write_error}); run Ray there as the driver's user, "
            f"{here.user}, or give both a group that may write (chgrp -R GROUP, chmod -R g+rwXs, umask 002)"
        )
        found.append(Finding(level="error", node=node, text=text))
    if facts.lock == "granted":
        where = "one mount" if facts.machine == here.machine else "this node alone"
        text = (
            f"was granted a lock that the driver holds: the locks of {folder} are those of {where}; "
            "mount it with shared locks (NFS without nolock and local_lock, Lustre with -o flock)"
        )
        found.append(Finding(level="error", node=node, text=text, unsafe=True))
    elif facts.lock.startswith("no locks"):
        text = (
            f"the file system of {folder} has {facts.lock}; mount it with them (NFS without nolock, Lustre with -o "
            "flock), or give another --storage"
        )
        found.append(Finding(level="error", node=node, text=text, unsafe=True))
    elif facts.lock != "refused":
        found.append(Finding(level="warning", node=node, text=f"whether locks hold is not known ({facts.lock})"))
    return found


def _mount(node: str, mount: Mount | None, folder: str) -> list[Finding]:
    """What the mount's type and options say of its locks."""
    if mount is None:
        return []
    kind = mount.type.removeprefix("fuse.").removeprefix("fuseblk.")
    if kind in BUCKETS:
        text = (
            f"{folder} is a bucket mounted by {kind}, without appends, renames and shared locks; give a folder on NFS, "
            "EFS, Filestore, Lustre or CephFS"
        )
        return [Finding(level="error", node=node, text=text, unsafe=True)]
    if local := [option for option in mount.options if option in LOCAL_LOCKS]:
        text = (
            f"{folder} is mounted with {', '.join(local)} ({mount.type} at {mount.point}), which keeps locks on this "
            "node; mount it without"
        )
        return [Finding(level="error", node=node, text=text, unsafe=True)]
    if mount.type.startswith("fuse") and mount.type != "fuseblk" and kind not in WITH_LOCKS:
        text = (
            f"{folder} is a file system in user space ({mount.type} at {mount.point}), many of which keep locks on one "
            "node; use it from one node, or try it with study.doctor from two"
        )
        return [Finding(level="warning", node=node, text=text)]
    return []


def _room(node: str, facts: NodeFacts, folder: str) -> list[Finding]:
    if facts.free_bytes < FEWEST_BYTES:
        text = f"{folder} has {facts.free_bytes / 1e6:,.0f} MB free; checkpoints of one model may need more"
    elif facts.free_files < FEWEST_FILES:
        text = f"{folder} has room for {facts.free_files:,} more files; a trajectory writes about 20"
    else:
        return []
    return [Finding(level="warning", node=node, text=text)]


def _code(node: str, facts: NodeFacts, here: NodeFacts) -> list[Finding]:
    if different := different_versions(here.versions, here.code, facts.versions, facts.code):
        text = f"has {different}; install the same on all nodes"
        return [Finding(level="error", node=node, text=text)]
    others = [
        f"{name} {facts.versions.get(name, 'missing')} (driver: {version})"
        for name, version in here.versions.items()
        if facts.versions.get(name) != version
    ]
    if not others:
        return []
    return [Finding(level="warning", node=node, text=f"has {', '.join(others)}; results may differ in their last bits")]


def judge_delays(node: str, seconds: dict[str, float | None], limit: float) -> list[Finding]:
    """What it means how many seconds a node took to see a new, a changed and a removed file; None: not within limit."""
    shown = ", ".join(
        f"a {what} file {'not within ' + f'{limit:.0f} s' if late is None else f'after {late:.1f} s'}"
        for what, late in seconds.items()
    )
    if all(late is not None and late <= LATE_SECONDS for late in seconds.values()):
        return [Finding(level="ok", node=node, text=f"sees {shown}")]
    text = f"sees {shown}; stopping and the end of a trajectory are noticed as late (NFS: mount with actimeo=3)"
    return [Finding(level="warning", node=node, text=text)]
