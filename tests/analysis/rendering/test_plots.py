"""Figures are valid SVG in the page's colours or on white, and each finding has its own colour everywhere."""

from xml.etree import ElementTree

from analysis.answer import Bar, Figure, Forest, Line, Panel
from analysis.diagnosis import LEARNED
from analysis.rendering.plots import COLOURS, FINDING_COLOURS, ON_PAPER, for_page, for_paper, render, with_id_prefix
from analysis.statistics.estimate import Estimate


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


def test_ids_of_pictures_on_one_page_differ() -> None:
    svg = '<svg><clipPath id="c"/><use href="#c" clip-path="url(#c)"/></svg>'
    assert with_id_prefix(svg, "p") == '<svg><clipPath id="p-c"/><use href="#p-c" clip-path="url(#p-c)"/></svg>'
