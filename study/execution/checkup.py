"""The whole check-up of a storage and of all nodes that share it."""

from __future__ import annotations

from pathlib import Path

from study.execution.cluster import NO_TOKEN, connect, disconnect, live_nodes, needs_no_token
from study.execution.node_checks import ask, delays, node_name, turns
from study.execution.node_devices import gpu_findings
from study.execution.node_facts import look, probing
from study.execution.node_findings import Answer, Finding, judge, judge_delays


def check_machine(storage: Path) -> list[Finding]:
    """What is wrong with the storage as this machine alone can see it."""
    with probing(storage) as probe:
        facts = look(probe)
        return judge(facts.host, Answer(facts=facts), facts, str(storage))


def check_cluster(storage: Path, address: str, *, seconds: float) -> list[Finding]:
    """What is wrong on the nodes of the cluster at ``address``, sorted by node; the storage's own findings are last.

    Changes of files are waited for ``seconds``. Raises StudyError where the cluster cannot be reached.
    """
    cluster = connect(address, verbose=False)
    try:
        nodes = {node["NodeID"]: node for node in live_nodes()}
        names = {node: node_name(nodes[node]) for node in sorted(nodes, key=lambda node: node_name(nodes[node]))}
        findings = []
        with probing(storage) as probe:
            here = look(probe)
            answers = ask(probe, list(names))
            for node, name in names.items():
                findings += judge(name, answers[node], here, str(storage))
        able = [node for node, answer in answers.items() if answer.facts is not None and answer.facts.sees]
        writing = [node for node in able if (facts := answers[node].facts) is not None and not facts.write_error]
        for node, result in delays(storage, able, limit=seconds).items():
            if isinstance(result, str):
                findings.append(Finding(level="error", node=names[node], text=f"cannot be asked: {result}"))
            else:
                findings += judge_delays(names[node], result, seconds)
        if len(writing) > 1:
            findings += turns(storage, *((node, names[node]) for node in _two_machines(writing, answers)))
        findings += gpu_findings({node: nodes[node]["Resources"] for node in able}, names)
        if needs_no_token(cluster):
            findings.append(Finding(level="warning", node=address, text=NO_TOKEN))
    finally:
        disconnect()
    order = {name: number for number, name in enumerate(names.values())}
    return sorted(findings, key=lambda finding: order.get(finding.node, len(order)))


def _two_machines(nodes: list[str], answers: dict[str, Answer]) -> tuple[str, str]:
    """Two nodes, of two machines where there are two."""
    machines = {node: answer.facts.machine for node, answer in answers.items() if answer.facts is not None}
    first = nodes[0]
    return first, next((node for node in nodes[1:] if machines[node] != machines[first]), nodes[1])
