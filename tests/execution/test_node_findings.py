"""What is said of a node, whose facts are given here: each line names the node, the reason and the remedy."""

from dataclasses import replace

import pytest

from study.execution.node_facts import Mount, NodeFacts
from study.execution.node_findings import Answer, Finding, judge, judge_delays

HERE = NodeFacts(
    host="head",
    user="ada (1000)",
    machine="one",
    sees=True,
    write_error="",
    lock="refused",
    mount=Mount(type="nfs4", point="/studies", options=("rw", "local_lock=none")),
    free_bytes=10**12,
    free_files=10**7,
    time=0.0,
    versions={"encoder-study": "1.0", "torch": "2.6", "transformers": "5.0", "numpy": "2.0", "python": "3.11.7"},
    code="abc",
    commit="0123456789abcdef",
)
NODE = replace(HERE, host="node", machine="two")


def findings(node: NodeFacts | None, **answer: object) -> list[Finding]:
    return judge("node (ab12cd)", Answer(facts=node, **answer), HERE, "/studies")  # type: ignore[arg-type]


def test_of_a_node_that_can_train_it_is_said_what_it_has() -> None:
    (finding,) = findings(NODE)
    assert str(finding) == (
        "ok       node (ab12cd)  sees /studies (nfs4, 1,000 GB free), writes as ada (1000), locks hold; encoder-study "
        "1.0, torch 2.6, transformers 5.0, Python 3.11.7, commit 0123456"
    )


@pytest.mark.parametrize(
    ("node", "words", "unsafe"),
    [
        (replace(NODE, sees=False), "does not see /studies; mount the folder that all nodes share there", False),
        (
            replace(NODE, write_error="Permission denied"),
            "cannot write to /studies (Permission denied); run Ray",
            False,
        ),
        (replace(NODE, lock="granted"), "the locks of /studies are those of this node alone; mount it with", True),
        (replace(NODE, lock="granted", machine="one"), "are those of one mount; mount it with shared locks", True),
        (replace(NODE, lock="no locks (No locks available)"), "has no locks (No locks available); mount it with", True),
        (replace(NODE, versions={**NODE.versions, "torch": "2.5"}), "has torch 2.5 (driver: 2.6); install", False),
        (replace(NODE, code="def"), "has other code of encoder-study def (driver: abc); install the same", False),
    ],
)
def test_what_keeps_a_node_from_training_is_an_error(node: NodeFacts, words: str, unsafe: bool) -> None:
    (finding,) = findings(node)
    assert (finding.level, finding.unsafe) == ("error", unsafe)
    assert words in finding.text


@pytest.mark.parametrize(
    ("type_", "options", "words"),
    [
        ("nfs", ("rw", "nolock"), "mounted with nolock (nfs at /studies), which keeps locks on this node"),
        ("nfs4", ("rw", "local_lock=flock"), "mounted with local_lock=flock (nfs4 at /studies)"),
        ("nfs", ("rw", "local_lock=all"), "mounted with local_lock=all"),
        ("lustre", ("rw", "localflock"), "mounted with localflock (lustre at /studies)"),
        ("cifs", ("rw", "nobrl"), "mounted with nobrl (cifs at /studies)"),
        ("fuse.s3fs", ("rw",), "is a bucket mounted by s3fs, without appends, renames and shared locks"),
        ("fuse.gcsfuse", ("rw",), "is a bucket mounted by gcsfuse"),
    ],
)
def test_a_mount_whose_locks_are_not_shared_loses_records(type_: str, options: tuple[str, ...], words: str) -> None:
    (finding,) = findings(replace(NODE, mount=Mount(type=type_, point="/studies", options=options)))
    assert (finding.level, finding.unsafe) == ("error", True)
    assert words in finding.text


@pytest.mark.parametrize("type_", ["nfs", "nfs4", "lustre", "ceph", "fuse.glusterfs", "fuse.juicefs", "ext4", "xfs"])
def test_a_mount_with_shared_locks_is_fine(type_: str) -> None:
    (finding,) = findings(replace(NODE, mount=Mount(type=type_, point="/studies", options=("rw", "local_lock=none"))))
    assert finding.level == "ok"


@pytest.mark.parametrize(
    ("node", "seconds_off", "words"),
    [
        (replace(NODE, free_bytes=10**8), 0.0, "has 100 MB free"),
        (replace(NODE, free_files=12), 0.0, "has room for 12 more files"),
        (NODE, 30.0, "its clock is 30 s ahead of the driver's"),
        (NODE, -30.0, "its clock is 30 s behind the driver's"),
        (replace(NODE, versions={**NODE.versions, "numpy": "1.9"}), 0.0, "has numpy 1.9 (driver: 2.0); results may"),
        (replace(NODE, mount=Mount(type="fuse.sshfs", point="/studies", options=())), 0.0, "in user space (fuse.sshfs"),
        (replace(NODE, lock="Input/output error"), 0.0, "whether locks hold is not known (Input/output error)"),
    ],
)
def test_what_a_node_can_train_with_is_a_warning(node: NodeFacts, seconds_off: float, words: str) -> None:
    fine, warning = findings(node, seconds_off=seconds_off)
    assert (fine.level, warning.level, warning.unsafe) == ("ok", "warning", False)
    assert words in warning.text


def test_a_node_that_does_not_answer_is_an_error() -> None:
    (finding,) = findings(None, error="no answer within 30 s, as with a mount that hangs")
    assert (finding.level, finding.text) == (
        "error",
        "cannot be asked: no answer within 30 s, as with a mount that hangs",
    )


def test_late_and_unseen_changes_are_warnings_with_their_seconds() -> None:
    (quick,) = judge_delays("node", {"new": 0.1, "changed": 0.0, "removed": 4.9}, 75)
    assert (quick.level, quick.text) == (
        "ok",
        "sees a new file after 0.1 s, a changed file after 0.0 s, a removed file after 4.9 s",
    )
    (late,) = judge_delays("node", {"new": 0.1, "changed": 30.2, "removed": None}, 75)
    assert late.level == "warning"
    assert late.text.startswith(
        "sees a new file after 0.1 s, a changed file after 30.2 s, a removed file not within 75 s; stopping"
    )
