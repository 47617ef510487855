"""Figures are valid SVG in the page's colours or on white, and each finding has its own colour everywhere."""

import itertools
import math
from xml.etree import ElementTree

from analysis.answer import Bar, Figure, Forest, Line, Panel
from analysis.diagnosis import LEARNED
from analysis.rendering.drawing import COLOURS
from analysis.rendering.plots import FINDING_COLOURS, ON_PAPER, for_page, for_paper, render, with_id_prefix
from analysis.statistics.estimate import Estimate

SVG = "{http://www.w3.org/2000/svg}"


def figure_of(*groups: str, most_panels: int = 24) -> Figure:
    lines = [Line(x=[0, 1], y=[0, number], group=group) for number, group in enumerate(groups)]
    forest = Forest(title="f", x_label="x", bars=[Bar(label="b", estimate=Estimate(value=0.5), group=groups[0])])
    panel = Panel(title="p", x_label="x", y_label="y", lines=lines)
    return Figure(name="figure", caption="", panels=[panel, forest], mark="a mark", most_panels=most_panels)


def test_each_finding_has_a_colour_of_its_own() -> None:
    findings = {finding: colour for finding, colour in FINDING_COLOURS.items() if finding != "failed"}
    assert len(set(findings.values())) == len(findings)
    assert set(LEARNED) < findings.keys()
    assert len(ON_PAPER) == len(COLOURS) == len(set(ON_PAPER)) == len(set(COLOURS))


def test_findings_keep_their_colours_and_other_groups_take_them_in_turn() -> None:
    legend = dict(render(figure_of("non-finite", "a", "flat, cause open", "b")).legend)
    assert legend == {"non-finite": 8, "a": 0, "flat, cause open": 7, "b": 1}


def test_the_page_and_the_file_have_their_own_colours() -> None:
    rendered = render(figure_of("non-finite", "a"))
    assert "var(--c8)" in for_page(rendered.panels[0])
    file = for_paper(rendered.whole)
    ElementTree.fromstring(file.partition("\n")[2])
    assert ON_PAPER[8] in file
    assert not any(colour in file + for_page(rendered.panels[0]) for colour in COLOURS)


def test_only_shown_panels_are_drawn() -> None:
    assert len(render(figure_of("a")).panels) == 2
    assert len(render(figure_of("a", most_panels=1)).panels) == 1


def panel_of(*lines: Line, label_lines: bool = False) -> Figure:
    panel = Panel(title="p", x_label="x", y_label="y", lines=lines, label_lines=label_lines)
    return Figure(name="figure", caption="", panels=[panel])


def test_every_line_has_a_title_where_one_points_at_it() -> None:
    svg = render(
        panel_of(Line(x=[0, 1], y=[0, 1], group="healthy", name="lr <1> & seed 0"), Line(x=[0], y=[1], group="a"))
    )
    titles = [element.text for element in ElementTree.fromstring(svg.panels[0]).iter(f"{SVG}title")]
    assert titles == ["lr <1> & seed 0: healthy", "a"]
    assert "title-" not in svg.panels[0]
    ElementTree.fromstring(svg.whole)


def test_labelled_lines_have_their_names_beside_them_and_apart() -> None:
    lines = [Line(x=[0, 1], y=[0, 0.5], group="healthy", name=f"lr {number}", thin=True) for number in range(4)]
    svg = ElementTree.fromstring(render(panel_of(*lines, label_lines=True)).panels[0])
    heights = {text.text: float(text.attrib["y"]) for text in svg.iter(f"{SVG}text") if (text.text or "")[:2] == "lr"}
    assert set(heights) == {line.name for line in lines}
    ordered = sorted(heights.values())
    assert min(after - before for before, after in itertools.pairwise(ordered)) > 6
    unlabelled = ElementTree.fromstring(render(panel_of(*lines)).panels[0])
    assert not any((text.text or "").startswith("lr") for text in unlabelled.iter(f"{SVG}text"))


def test_lines_that_never_have_a_number_have_no_label() -> None:
    line = Line(x=[0, 1], y=[math.nan, math.nan], group="non-finite", name="lr 1")
    ElementTree.fromstring(render(panel_of(line, label_lines=True)).panels[0])


def test_a_bar_that_spans_all_that_is_possible_is_not_drawn() -> None:
    def width(estimate: Estimate) -> int:
        bars = [Bar(label="b", estimate=estimate, group="a")]
        panel = Forest(title="f", x_label="x", bars=bars, percent=True)
        return render(Figure(name="figure", caption="", panels=[panel])).panels[0].count(COLOURS[0])

    drawn, left_out = (width(Estimate(value=0.5, low=low, high=0.98)) for low in (0.2, 0.0))
    assert drawn > left_out


def test_ids_of_pictures_on_one_page_differ() -> None:
    svg = '<svg><clipPath id="c"/><use href="#c" clip-path="url(#c)"/></svg>'
    assert with_id_prefix(svg, "p") == '<svg><clipPath id="p-c"/><use href="#p-c" clip-path="url(#p-c)"/></svg>'
