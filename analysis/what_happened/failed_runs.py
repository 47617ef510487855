"""Which runs failed and how, by name; and of the others, which were unstable or are in doubt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from analysis.diagnosis import Diagnosis, Finding
from analysis.evidence.names import Naming, name_or_model, run_naming
from analysis.results import Results
from analysis.wording import agree, count, join_words

# Groups of failed runs that are named: more are counted.
MOST_NAMED = 4
# Failures in words, and the other findings of runs that did not train smoothly.
FAILED: Mapping[Finding, str] = {
    "collapsed": "collapsed",
    "never learned": "never learned",
    "non-finite": "ended with a non-finite loss",
}
OTHERS: Mapping[Finding, str] = {
    "collapsed and recovered": "collapsed and recovered",
    "declined": "lost part of its accuracy",
    "declined and recovered": "lost part of its accuracy and recovered",
    "overfitting": "overfitted",
    "over-confident late": "became over-confident late, with its accuracy kept",
    "memorised": "memorised the training texts without better than chance on validation",
    "not learned yet": "had not learned yet",
    "flat, cause open": "stayed at chance, for an unknown cause",
    "not shown to have learned": "cannot be told from chance with so few validation examples",
}


def failed_runs(results: Results) -> str:
    """Which runs failed, in sentences."""
    ended = [results.diagnoses[run.trajectory.id] for run in results.runs if run.ended]
    sentences = []
    if not ended:
        sentences.append("No run has ended yet.")
    else:
        failed = [diagnosis for diagnosis in ended if diagnosis.finding in FAILED]
        sentences.append(_failures(results, failed, len(ended)))
        sentences += _others(results, [diagnosis for diagnosis in ended if diagnosis.finding in OTHERS])
    if errors := [run for run in results.runs if run.outcome is not None and run.outcome.status == "failed"]:
        naming = run_naming(results)
        names = "; ".join(name_or_model(naming, run.settings) for run in errors[:MOST_NAMED])
        more = f"; and {len(errors) - MOST_NAMED:,} more" if len(errors) > MOST_NAMED else ""
        verb = agree(len(errors), "was", "were")
        sentences.append(
            f"{_count_runs(len(errors))} {verb} stopped by an error, and counted in no score: {names}{more}."
        )
    return " ".join(sentences)


def _failures(results: Results, failed: Sequence[Diagnosis], ended: int) -> str:
    if not failed:
        return "No run failed." if ended > 1 else "The one run did not fail."
    head = f"{_count_runs(len(failed))} of {ended:,} failed"
    by_finding = Counter(FAILED[diagnosis.finding] for diagnosis in failed)
    if len(by_finding) > 1 and len(failed) > MOST_NAMED:
        head += f" ({join_words([f'{n:,} {finding}' for finding, n in by_finding.items()])})"
    return f"{head}: {_named(results, failed, FAILED)}."


def _others(results: Results, others: Sequence[Diagnosis]) -> list[str]:
    """A sentence for each finding that is no failure and yet not healthy."""
    sentences = []
    for finding, words in OTHERS.items():
        found = [diagnosis for diagnosis in others if diagnosis.finding == finding]
        if found:
            words = words.replace("its accuracy", agree(len(found), "its accuracy", "their accuracy"))
            sentences.append(f"{_count_runs(len(found))} {words}: {_named(results, found, {})}.")
    return sentences


def _count_runs(quantity: int) -> str:
    return "One run" if quantity == 1 else f"{quantity:,} runs"


def _named(results: Results, diagnoses: Sequence[Diagnosis], verbs: Mapping[Finding, str]) -> str:
    """The runs by name, those of one condition and finding together; ``verbs`` say what happened to them."""
    naming = run_naming(results)
    groups: dict[tuple[str, Finding], list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        condition = name_or_model(naming, diagnosis.run.settings, without=["seed"])
        groups.setdefault((condition, diagnosis.finding), []).append(diagnosis)
    parts = [
        _group(condition, members, verbs.get(finding, ""), naming) for (condition, finding), members in groups.items()
    ]
    if (hidden := len(parts) - MOST_NAMED) > 0:
        runs = sum(len(members) for members in list(groups.values())[MOST_NAMED:])
        parts[MOST_NAMED:] = [f"and {runs:,} more in {count(hidden, 'other setting')}"]
    return "; ".join(parts)


def _group(condition: str, members: Sequence[Diagnosis], verb: str, naming: Naming) -> str:
    """The runs of one condition with one finding."""
    name = condition
    if "seed" in naming.keys:
        seeds = [f"{diagnosis.run.settings.seed}" for diagnosis in members]
        name += f" · {agree(len(seeds), 'seed', 'seeds')} {join_words(seeds)}"
    if not verb:
        return name
    onsets = sorted({diagnosis.onset_epoch for diagnosis in members if diagnosis.onset_epoch is not None})
    if not onsets or verb == FAILED["never learned"]:
        return f"{name} {verb}"
    place = f"epoch {onsets[0]}" if len(onsets) == 1 else f"epochs {onsets[0]} to {onsets[-1]}"
    return f"{name} {verb} at {place}"
