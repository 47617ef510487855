"""A file system in user space that is as late as NFS with its default mounts: one daemon is one machine's mount.

It passes everything on to a folder, its server, and lets the kernel keep names, missing names and attributes for a
while. As on NFS (nfs(5), "Data and metadata coherence"), a file or a folder that is opened is the newest one, while
``stat`` and a name that was missing may be old; a file that another machine has deleted or replaced gives ESTALE to who
has it open; an append goes to the end that the machine knew of, not to the one that the file has by then. As with
``nolock``, locks are the machine's own. Writes and renames may be delayed.

It speaks the kernel's protocol itself (linux/fuse.h, version 7.31): libfuse would hide what a machine may keep, and the
kernel's request to open a file. Linux only, and only root can. The mount is over the folder itself, so this has a mount
namespace of its own, which other processes enter, and all of it ends with them:

    unshare -m -u python late_file_system.py FOLDER --host-name NAME --cache-seconds 30
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import os
import random
import signal
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT_ID = 1
MAX_WRITE = 1 << 20
THREADS = 8
# Flags of FUSE_INIT: parallel reads, large writes, listings that bring names and attributes.
ASYNC_READ, BIG_WRITES, DO_READDIRPLUS, MAX_PAGES, MORE_FLAGS = 1 << 0, 1 << 5, 1 << 13, 1 << 22, 1 << 30
# Of its second flags: files that are read without the kernel's cache may still be mapped.
MAY_MAP = 1 << 4
DIRECT_READS = 1
# Which attributes a FUSE_SETATTR sets.
MODE, UID, GID, SIZE, ATIME, MTIME, ATIME_NOW, MTIME_NOW = 1, 2, 4, 8, 16, 32, 128, 256
INVALIDATE_ATTRIBUTES = 2
PR_SET_PDEATHSIG = 1
AT_EMPTY_PATH, MAX_HANDLE = 0x1000, 128
LIBC = ctypes.CDLL(None, use_errno=True)

HEADER = struct.Struct("<IIQQIIII")
REPLY = struct.Struct("<IiQ")
ATTRIBUTES = struct.Struct("<6Q10I")
ENTRY = struct.Struct("<4Q2I")
OPENED = struct.Struct("<QII")


class StaleError(OSError):
    """The file is not what the machine believes it to be: the kernel looks the name up again, once."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, os.strerror(errno.ESTALE))


@dataclass(slots=True)
class Node:
    """A file or folder that the kernel knows; ``path`` is None once this machine has deleted or replaced it."""

    number: int
    path: str | None
    file: bytes
    lookups: int = 0
    handles: set[int] = field(default_factory=set)
    known: os.stat_result | None = None
    until: float = 0.0


class Nodes:
    """The nodes that the kernel knows, by number, and by what tells files apart whose inode has one number."""

    def __init__(self, server: str, cache_seconds: float) -> None:
        self.cache_seconds = cache_seconds
        self.lock = threading.RLock()
        root = Node(ROOT_ID, server, examine(server)[1], lookups=1)
        self.by_number, self.by_file = {ROOT_ID: root}, {root.file: root}
        self.last = ROOT_ID

    def path(self, number: int) -> str:
        path = self.by_number[number].path
        if path is None:
            raise StaleError
        return path

    def find(self, path: str, status: os.stat_result, file: bytes) -> Node:
        """The node of a file that was looked up just now."""
        with self.lock:
            node = self.by_file.get(file)
            if node is None or node.path is None:
                self.last += 1
                node = self.by_number[self.last] = self.by_file[file] = Node(self.last, path, file)
            node.path = path
            node.lookups += 1
            node.known, node.until = status, time.monotonic() + self.cache_seconds
            return node

    def forget(self, number: int, lookups: int) -> None:
        with self.lock:
            node = self.by_number[number]
            node.lookups -= lookups
            if node.lookups <= 0 and not node.handles and number != ROOT_ID:
                del self.by_number[number]
                if self.by_file.get(node.file) is node:
                    del self.by_file[node.file]

    def remove(self, path: str) -> None:
        """Note that this machine has deleted what was at ``path``; who has it open may go on using it."""
        with self.lock:
            for node in self.by_number.values():
                if node.path in (path, os.path.dirname(path)):
                    node.known = None
                if node.path == path:
                    node.path = None

    def move(self, old: str, new: str) -> None:
        with self.lock:
            self.remove(new)
            for node in self.by_number.values():
                node.known = None
                if node.path == old:
                    node.path = new
                elif node.path is not None and node.path.startswith(f"{old}/"):
                    node.path = new + node.path[len(old) :]


class Daemon:
    """Answers the kernel's requests from the folder ``server``."""

    def __init__(self, device: int, server: str, *, cache_seconds: float, write_delay: float, rename_delay: float):
        self.device = device
        self.nodes = Nodes(server, cache_seconds)
        self.valid = divmod(round(cache_seconds * 1e9), 10**9)
        self.write_delay, self.rename_delay = write_delay, rename_delay
        self.lists: dict[int, list[os.DirEntry[str]]] = {}
        self.answers: dict[int, Callable[[int, bytes], bytes | None]] = {
            1: self.look_up, 2: self.forget, 3: self.get_attributes, 4: self.set_attributes, 5: self.read_link,
            6: self.symlink, 9: self.make_folder, 10: self.unlink, 11: self.remove_folder, 12: self.rename,
            14: self.open, 15: self.read, 16: self.write, 17: self.statfs, 18: self.release, 20: self.sync,
            25: lambda *_: b"", 26: self.init, 27: self.open_folder, 29: self.release, 30: self.sync,
            35: self.create, 36: lambda *_: None, 38: lambda *_: b"", 42: self.forget_many, 44: self.list_folder,
            45: self.rename_with_flags,
        }  # fmt: skip

    def serve(self) -> None:
        """Answer until the mount ends."""
        while True:
            try:
                request = os.read(self.device, MAX_WRITE + 4096)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return
            _, operation, unique, number, *_ = HEADER.unpack_from(request)
            try:
                answer = self.answers.get(operation, refuse)(number, request[HEADER.size :])
                problem = 0
            except OSError as error:
                answer, problem = b"", -(error.errno or errno.EIO)
            except KeyError:
                answer, problem = b"", -errno.ESTALE
            if answer is not None:
                # ENOENT: the one who asked was killed meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    os.write(self.device, REPLY.pack(REPLY.size + len(answer), problem, unique) + answer)

    # Names.

    def entry(self, path: str) -> bytes:
        status, file = examine(path)
        node = self.nodes.find(path, status, file)
        seconds, nanoseconds = self.valid
        return ENTRY.pack(node.number, 0, seconds, seconds, nanoseconds, nanoseconds) + pack(status)

    def child(self, parent: int, name: bytes) -> str:
        return f"{self.nodes.path(parent)}/{name.rstrip(bytes(1)).decode()}"

    def look_up(self, parent: int, body: bytes) -> bytes:
        try:
            return self.entry(self.child(parent, body))
        except FileNotFoundError:  # which the kernel keeps, too
            seconds, nanoseconds = self.valid
            return ENTRY.pack(0, 0, seconds, 0, nanoseconds, 0) + bytes(ATTRIBUTES.size)

    def forget(self, number: int, body: bytes) -> None:
        self.nodes.forget(number, *struct.unpack_from("<Q", body))

    def forget_many(self, _: int, body: bytes) -> None:
        for number, lookups in struct.iter_unpack("<QQ", body[8:]):
            self.nodes.forget(number, lookups)

    def read_link(self, number: int, _: bytes) -> bytes:
        return os.readlink(self.nodes.path(number)).encode()

    def symlink(self, parent: int, body: bytes) -> bytes:
        name, target, _ = body.split(b"\0")
        path = self.child(parent, name)
        os.symlink(target, path)
        return self.entry(path)

    def make_folder(self, parent: int, body: bytes) -> bytes:
        mode, umask = struct.unpack_from("<II", body)
        path = self.child(parent, body[8:])
        os.mkdir(path, mode & ~umask)
        return self.entry(path)

    def unlink(self, parent: int, body: bytes) -> bytes:
        path = self.child(parent, body)
        os.unlink(path)
        self.nodes.remove(path)
        return b""

    def remove_folder(self, parent: int, body: bytes) -> bytes:
        path = self.child(parent, body)
        os.rmdir(path)
        self.nodes.remove(path)
        return b""

    def rename_with_flags(self, parent: int, body: bytes) -> bytes:
        if body[8:12] != bytes(4):
            raise OSError(errno.EINVAL, "not on NFS")
        return self.rename(parent, body[:8] + body[16:])

    def rename(self, parent: int, body: bytes) -> bytes:
        (new_parent,) = struct.unpack_from("<Q", body)
        old, new, _ = body[8:].split(b"\0")
        source, target = self.child(parent, old), self.child(new_parent, new)
        delay(self.rename_delay)
        os.rename(source, target)
        self.nodes.move(source, target)
        return b""

    # Attributes.

    def status(self, number: int) -> os.stat_result:
        """What is known of a file, which is old unless this machine has opened or changed it since."""
        node = self.nodes.by_number[number]
        if node.known is None or time.monotonic() > node.until:
            node.known, node.until = self.newest_status(node), time.monotonic() + self.nodes.cache_seconds
        return node.known

    def newest_status(self, node: Node) -> os.stat_result:
        if node.path is None:
            with self.nodes.lock:
                for handle in node.handles:
                    return os.fstat(handle)
            raise StaleError
        try:
            status, file = examine(node.path)
        except FileNotFoundError:
            raise StaleError from None
        if file != node.file:
            raise StaleError
        return status

    def attributes(self, status: os.stat_result) -> bytes:
        return struct.pack("<QII", *self.valid, 0) + pack(status)

    def get_attributes(self, number: int, _: bytes) -> bytes:
        return self.attributes(self.status(number))

    def set_attributes(self, number: int, body: bytes) -> bytes:
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = struct.unpack(
            "<II6Q8I", body
        )
        node = self.nodes.by_number[number]
        before = self.newest_status(node)
        with self.nodes.lock:
            place: str | int = node.path if node.path is not None else next(iter(node.handles))
        if valid & MODE:
            os.chmod(place, stat.S_IMODE(mode))
        if valid & (UID | GID):
            os.chown(place, uid if valid & UID else -1, gid if valid & GID else -1)
        if valid & SIZE:
            os.truncate(place, size)
        if valid & (ATIME | MTIME):
            now = time.time_ns()
            times = (
                (now if valid & ATIME_NOW else atime * 10**9 + atime_ns) if valid & ATIME else before.st_atime_ns,
                (now if valid & MTIME_NOW else mtime * 10**9 + mtime_ns) if valid & MTIME else before.st_mtime_ns,
            )
            os.utime(place, ns=times)
        node.known = None
        return self.attributes(self.status(number))

    def statfs(self, number: int, _: bytes) -> bytes:
        s = os.statvfs(self.nodes.path(number))
        return struct.pack(
            "<5Q4I24x", s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize, s.f_namemax, s.f_frsize, 0
        )

    # Files.

    def open(self, number: int, body: bytes) -> bytes:
        (flags,) = struct.unpack_from("<I", body)
        try:
            handle = os.open(self.nodes.path(number), backing_flags(flags))
        except FileNotFoundError:
            raise StaleError from None
        node = self.nodes.by_number[number]
        if file_handle(handle) != node.file:
            os.close(handle)
            raise StaleError
        with self.nodes.lock:
            node.handles.add(handle)
        node.known = None
        # Opening asks the server: what is known of the file from before is dropped, its content with it.
        notice = struct.pack("<Qqq", number, -1, 0)
        with contextlib.suppress(OSError):
            os.write(self.device, REPLY.pack(REPLY.size + len(notice), INVALIDATE_ATTRIBUTES, 0) + notice)
        # A reader asks the server: of attributes that come late from it, the kernel does not know, as NFS does, that
        # they are older than those it has, and would read a file to the end that it once had.
        reads = flags & (os.O_ACCMODE | os.O_DIRECTORY) == os.O_RDONLY
        return OPENED.pack(handle, DIRECT_READS if reads else 0, 0)

    def create(self, parent: int, body: bytes) -> bytes:
        flags, mode, umask, _ = struct.unpack_from("<4I", body)
        path = self.child(parent, body[16:])
        handle = os.open(path, backing_flags(flags) | os.O_CREAT, mode & ~umask)
        status = os.fstat(handle)
        node = self.nodes.find(path, status, file_handle(handle))
        with self.nodes.lock:
            node.handles.add(handle)
            self.nodes.by_number[parent].known = None
        seconds, nanoseconds = self.valid
        entry = ENTRY.pack(node.number, 0, seconds, seconds, nanoseconds, nanoseconds) + pack(status)
        return entry + OPENED.pack(handle, 0, 0)

    def handle(self, number: int, body: bytes) -> int:
        """The open file; what another machine has deleted or replaced is gone (the server keeps nothing for us)."""
        (handle,) = struct.unpack_from("<Q", body)
        if self.nodes.by_number[number].path is not None and os.fstat(handle).st_nlink == 0:
            raise StaleError
        return int(handle)

    def read(self, number: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(self.handle(number, body), size, offset)

    def write(self, number: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        delay(self.write_delay)
        written = os.pwrite(self.handle(number, body), body[40 : 40 + size], offset)
        self.nodes.by_number[number].known = None
        return struct.pack("<II", written, 0)

    def sync(self, number: int, body: bytes) -> bytes:
        self.handle(number, body)  # the server does not lose power
        return b""

    def release(self, number: int, body: bytes) -> bytes:
        (handle,) = struct.unpack_from("<Q", body)
        with self.nodes.lock:
            self.nodes.by_number[number].handles.discard(handle)
            self.lists.pop(handle, None)
            self.nodes.forget(number, 0)
        os.close(handle)
        return b""

    # Folders.

    def open_folder(self, number: int, body: bytes) -> bytes:
        opened = self.open(number, struct.pack("<I", os.O_RDONLY | os.O_DIRECTORY))
        (handle, *_) = OPENED.unpack(opened)
        with os.scandir(self.nodes.path(number)) as entries:
            self.lists[handle] = list(entries)
        return opened

    def list_folder(self, number: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        listing = b""
        for position, item in enumerate(self.lists[handle][offset:], start=offset + 1):
            name = item.name.encode()
            if len(listing) + 128 + 24 + len(name) + 7 > size:
                break
            try:
                entry = self.entry(f"{self.nodes.path(number)}/{item.name}")
            except FileNotFoundError:  # deleted while the folder was listed
                entry = bytes(ENTRY.size + ATTRIBUTES.size)
            listing += entry + struct.pack("<QQII", item.inode(), position, len(name), 0) + name + bytes(-len(name) % 8)
        return listing

    def init(self, _: int, body: bytes) -> bytes:
        major, minor, readahead, offered, more_offered = struct.unpack_from("<5I", body)
        assert (major, minor >= 31) == (7, True), (major, minor)
        flags = offered & (ASYNC_READ | BIG_WRITES | DO_READDIRPLUS | MAX_PAGES | MORE_FLAGS)
        limits = 16, 12, MAX_WRITE, 1, MAX_WRITE // 4096, 0
        return struct.pack("<4IHHIIHHI28x", 7, 31, readahead, flags, *limits, more_offered & MAY_MAP)


def examine(path: str) -> tuple[os.stat_result, bytes]:
    """The attributes of what is at ``path`` now, and its handle."""
    # The root's path is a link in /proc to the folder.
    descriptor = os.open(path, os.O_PATH | (0 if path.startswith("/proc/") and path.count("/") == 4 else os.O_NOFOLLOW))
    try:
        return os.fstat(descriptor), file_handle(descriptor)
    finally:
        os.close(descriptor)


def file_handle(descriptor: int) -> bytes:
    """What an NFS server would call an open file: the number of its inode, which a later file may have, too, and more.

    Raises OSError where the server's file system has none, such as the overlay of a container.
    """
    handle = ctypes.create_string_buffer(struct.pack("<Ii", MAX_HANDLE, 0), 8 + MAX_HANDLE)
    if LIBC.name_to_handle_at(descriptor, b"", handle, ctypes.byref(ctypes.c_int()), AT_EMPTY_PATH):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    (length,) = struct.unpack_from("<I", handle)
    return handle.raw[8 : 8 + length]


def refuse(number: int, body: bytes) -> bytes:
    """What NFS without locks, and version 3 without extended attributes, does not know; the kernel asks once."""
    raise OSError(errno.ENOSYS, "")


def backing_flags(flags: int) -> int:
    """The flags to open the server's file with: where to write is decided on the machine, and pages are read back."""
    kept = flags & ~(os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_ACCMODE)
    return kept | (os.O_RDONLY if flags & os.O_ACCMODE == os.O_RDONLY else os.O_RDWR) | os.O_CLOEXEC


def pack(status: os.stat_result) -> bytes:
    """The attributes of a file, ``struct fuse_attr``."""
    times = [divmod(nanoseconds, 10**9) for nanoseconds in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)]
    return ATTRIBUTES.pack(
        status.st_ino, status.st_size, status.st_blocks, *(seconds for seconds, _ in times),
        *(nanoseconds for _, nanoseconds in times), status.st_mode, status.st_nlink, status.st_uid, status.st_gid,
        status.st_rdev, status.st_blksize, 0,
    )  # fmt: skip


def delay(seconds: float) -> None:
    """Wait for between nothing and twice so long."""
    if seconds:
        time.sleep(random.uniform(0, 2 * seconds))


def mount(path: Path) -> int:
    """Mount at ``path``; returns the device by which the kernel asks."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other,default_permissions"
    if LIBC.mount(b"late", str(path).encode(), b"fuse.late", 0, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return device


def main() -> None:
    """Mount, say so on standard output, and answer until the parent process ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host-name", required=True)
    parser.add_argument("--cache-seconds", type=float, required=True)
    parser.add_argument("--write-delay", type=float, default=0.0)
    parser.add_argument("--rename-delay", type=float, default=0.0)
    given = parser.parse_args()
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    socket.sethostname(given.host_name)
    server = os.open(given.folder, os.O_RDONLY | os.O_DIRECTORY)  # which the mount will hide
    daemon = Daemon(
        mount(given.folder),
        f"/proc/self/fd/{server}",
        cache_seconds=given.cache_seconds,
        write_delay=given.write_delay,
        rename_delay=given.rename_delay,
    )
    threads = [threading.Thread(target=daemon.serve) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    print("mounted", flush=True)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
