"""What a node says of itself: mounts as the kernel lists them, and code and libraries compared."""

from pathlib import Path

import pytest

from study.errors import NodeError
from study.execution.node_facts import Probe, code_hash, different_versions, look, mount_of, probing, require_node

MOUNTS = r"""
22 28 0:21 / /sys rw,nosuid - sysfs sysfs rw
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
90 28 0:48 / /studies rw,relatime shared:50 - nfs4 server:/export rw,vers=4.2,hard,local_lock=none,addr=192.0.2.7
91 28 0:49 / /studies/old\040ones rw,relatime - nfs server:/old rw,vers=3,nolock,local_lock=all
92 90 0:50 / /studies/bucket rw,nosuid,nodev - fuse.s3fs s3fs rw,user_id=0
a line that is no mount
"""
VERSIONS = {"encoder-study": "1.0", "torch": "2.6", "transformers": "5.0", "tokenizers": "0.22", "numpy": "2.0"}


@pytest.mark.parametrize(
    ("path", "type_", "option"),
    [
        ("/home/me/studies", "ext4", "discard"),
        ("/studies/small", "nfs4", "local_lock=none"),
        ("/studies/old ones/small", "nfs", "nolock"),
        ("/studies/bucket", "fuse.s3fs", "nosuid"),
        ("/studiesx", "ext4", "relatime"),
    ],
)
def test_the_mount_of_a_path_is_the_innermost_one(path: str, type_: str, option: str) -> None:
    mount = mount_of(Path(path), MOUNTS)
    assert mount is not None
    assert mount.type == type_
    assert option in mount.options


def test_without_a_list_of_mounts_none_is_known() -> None:
    assert mount_of(Path("/studies"), "") is None


def test_what_computes_has_to_be_the_same_and_other_libraries_need_not() -> None:
    assert not different_versions(VERSIONS, "aa", {**VERSIONS, "numpy": "1.0"}, "aa")
    assert different_versions(VERSIONS, "aa", {**VERSIONS, "torch": "2.5"}, "aa") == "torch 2.5 (driver: 2.6)"
    assert "transformers missing (driver: 5.0)" in different_versions(
        VERSIONS, "aa", {name: version for name, version in VERSIONS.items() if name != "transformers"}, "aa"
    )
    assert different_versions(VERSIONS, "aa", VERSIONS, "bb") == "other code of encoder-study bb (driver: aa)"


def test_a_lock_that_is_held_is_refused_and_one_that_is_not_is_granted(tmp_path: Path) -> None:
    with probing(tmp_path) as probe:
        facts = look(probe)
        assert (facts.sees, facts.lock, facts.write_error) == (True, "refused", "")
        free = tmp_path / "free.lock"
        assert look(Probe(file=probe.file, token=probe.token, lock=str(free))).lock == "granted"
        free.unlink()
        elsewhere = look(Probe(file=probe.file, token="another study", lock=probe.lock))
        assert (elsewhere.sees, elsewhere.lock) == (False, "")
    assert not list(tmp_path.iterdir())


def test_a_node_is_required_to_see_the_study_and_to_have_its_code(tmp_path: Path) -> None:
    with probing(tmp_path) as probe:
        versions = look(probe).versions
        require_node(probe, versions, code_hash())
        with pytest.raises(NodeError, match=r"has torch \S+ \(driver: 1\.0\); install the same there"):
            require_node(probe, {**versions, "torch": "1.0"}, code_hash())
        with pytest.raises(NodeError, match="other code of encoder-study"):
            require_node(probe, versions, "another")
    with pytest.raises(NodeError, match=f"does not see {tmp_path}; mount the storage there"):
        require_node(probe, versions, code_hash())
