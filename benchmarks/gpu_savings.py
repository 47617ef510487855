"""What computing the last layer at its first position alone saves on a GPU, in captured steps."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.alternation import spread
from benchmarks.gpu_fast import CONTENDERS, STEPS, make_work, take_turns
from benchmarks.sections import Place, Results


def savings(results: Results, place: Place) -> None:
    for batch_size in place.size((16, 64, 256), (16,)):
        work = make_work(place, batch_size)
        with_savings = CONTENDERS["captured"]
        contenders = {"with savings": with_savings, "without": replace(with_savings, savings=False)}
        rates = take_turns(results, place, work, contenders, dict.fromkeys(contenders, STEPS[batch_size]["captured"]))
        for name, rate in rates.items():
            note = f"{1e3 / rate.median:.2f} ms a step"
            if len(rates) == 2:
                note += f", {spread(rate.over(rates['without']))} without"
            results.add(
                f"batch {work.batch_size}: {name}", round(rate.median * work.batch_size, 1), "examples/s", note=note
            )


SECTIONS = {"savings": savings}
