"""The report is one offline page that opens anywhere, says what is missing, and runs no text of a study."""

import ast
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from places import ROOT
from selenium.webdriver.chrome.webdriver import WebDriver
from synthetic_study import Story, SyntheticStudy, collapsing, healthy, make_synthetic, overfitting, plan_of

from analysis.findings import QUESTIONS, load_question
from analysis.report import main
from study.settings import Settings

EVIL = '<script>alert(1)</script> | $x_1$ `a` & "b"'
TEXT = f"""
data: {{source: builtin:reviews, examples: 1000}}
fixed: {{epochs: 4}}
axes:
  model: [tiny-bert, tiny-roberta]
  lr_schedule: [constant, linear]
  seed: [0, 1]
references:
  - match: {{model: tiny-bert, lr_schedule: constant}}
    test_loss: 0.316
    test_accuracy: 0.885
    source: {json.dumps(EVIL)}
"""
LIGHT = """
import sys
import analysis.report, analysis.findings, analysis.rendering.page
for name in analysis.findings.QUESTIONS:
    analysis.findings.load_question(name)
heavy = sorted({"torch", "ray", "transformers", "mlflow", "datasets"} & set(sys.modules))
print(*heavy)
sys.exit(bool(heavy))
"""


def study(folder: Path, text: str = TEXT) -> SyntheticStudy:
    space, plan = plan_of(folder, text)

    def story(settings: Settings, rng: object) -> Story:
        if settings.lr_schedule == "constant":
            return collapsing() if settings.seed else overfitting()
        return healthy()

    return make_synthetic(space, plan, story)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """The folder of a whole study with its report."""
    path = study(tmp_path).write(tmp_path / "studies").path
    assert main([str(path)]) == 0
    return path


class Page(HTMLParser):
    """The tags and ids of a page, and what it would fetch."""

    VOID = ("meta", "link", "br", "img", "input", "path", "use", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v and not v.startswith("#")]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)
        assert not any(key.startswith("on") for key in values)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_and_runs_nothing(report: Path) -> None:
    text = (report / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids))
    assert not page.tags & {"script", "iframe", "object", "link", "img", "form"}
    assert "url(http" not in text
    assert (report / "report.html").stat().st_size < 5_000_000


def test_text_of_a_study_stays_text_on_the_page_and_in_markdown(report: Path) -> None:
    assert "<script" not in (report / "report.html").read_text()
    markdown = (report / "report.md").read_text()
    assert "<script" not in markdown
    assert r"\| $x\_1$ \`a\` &amp;" in markdown


def test_the_opening_has_our_results_beside_the_published_ones(report: Path) -> None:
    markdown = (report / "report.md").read_text()
    opening = markdown[: markdown.index("## Answers")]
    row = next(line for line in opening.splitlines() if line.startswith("| tiny-bert | constant |"))
    assert "88.5 %" in row
    assert "0.316" in row
    assert row.count("|") == 11
    assert row.count("within") + row.count("outside") == 2


def test_the_report_goes_from_what_happened_over_the_table_to_the_answers(report: Path) -> None:
    html, markdown = (report / "report.html").read_text(), (report / "report.md").read_text()
    headings = ["What happened", "Results", "Answers", "What to run next", "State of the study"]
    for text, form in ((html, "<h2>{}</h2>"), (markdown, "\n## {}\n")):
        places = [text.index(form.format(heading)) for heading in headings]
        assert places == sorted(places)
    for text in (html, markdown):
        assert "2 runs of 8 failed" in text[text.index("What happened") : text.index("Results")]
    assert html.index("tiny-bert · constant") < html.index('id="results"')


def test_what_the_study_does_not_ask_is_folded_away_in_one_line(report: Path) -> None:
    html, markdown = (report / "report.html").read_text(), (report / "report.md").read_text()
    batch_size = load_question("batch_size").QUESTION
    assert f"<details><summary>Not asked by this study: {batch_size}" in html
    assert html.index('id="not-asked"') > html.index('id="next"')
    assert f"\nNot asked by this study: {batch_size}" in markdown
    for text in (html, markdown):
        assert "not asked" not in text.replace("not asked by this study", "")
    assert 'id="batch_size"' not in html
    assert f"## {batch_size}" not in markdown


def test_an_undetermined_answer_leaves_its_commands_to_what_to_run_next(report: Path) -> None:
    html = (report / "report.html").read_text()
    assert "undetermined" in html
    answers = html[html.index('id="answers"') : html.index('id="next"')]
    for section in answers.split("<section ")[1:]:
        if 'verdict open">' in section:
            assert "study.run" not in section
            assert section.count('<a href="#next">What to run next</a>') <= 1
    proposals = html[html.index('id="next"') : html.index('id="not-asked"')]
    assert proposals.count("study.run") == proposals.count("<pre>") >= 1
    assert "at the speed of this study" in proposals


def test_every_question_has_a_verdict_a_section_and_its_figures(report: Path) -> None:
    text = (report / "report.html").read_text()
    assert text.count('class="answer"') == len(QUESTIONS) - 1, "all but batch size, of which the study has one"
    figures = sorted(path.name for path in (report / "figures").iterdir())
    assert {"learning-curves.svg", "reliability.svg", "expected-best.svg", "early-stopping.svg"} <= set(figures)
    for name in figures:
        ElementTree.parse(report / "figures" / name)
    assert sorted(set(re.findall(r"\(figures/([\w-]+\.svg)\)", (report / "report.md").read_text()))) == figures


def test_a_second_report_is_the_same(report: Path) -> None:
    files = [path for path in report.rglob("*") if path.suffix in (".html", ".md", ".svg")]
    before = {path: path.read_bytes() for path in files}
    assert main([str(report)]) == 0
    assert {path: path.read_bytes() for path in files} == before


def test_the_report_of_a_partial_study_says_so_at_the_top(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, TEXT)
    partial = make_synthetic(space, plan, lambda settings, rng: healthy() if settings.seed == 0 else None)
    path = partial.write(tmp_path / "studies").path
    assert main([str(path)]) == 0
    html, markdown = (path / "report.html").read_text(), (path / "report.md").read_text()
    state = "part of a study: 4 of 8 planned cells are complete, 0 failed, 0 started and have not ended, 4 are missing"
    assert state in html[: html.index("Results</h2>")]
    assert state in markdown[: markdown.index("## Results")]


def test_a_study_that_has_trained_nothing_has_a_report(tmp_path: Path) -> None:
    space, plan = plan_of(tmp_path, TEXT)
    path = make_synthetic(space, plan, lambda settings, rng: None).write(tmp_path / "studies").path
    assert main([str(path)]) == 0
    assert "nothing is" not in (path / "report.md").read_text()


def test_a_report_that_is_made_beside_the_studies_contains_no_path_of_theirs(
    report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(report.parent.parent)
    assert main(["studies/made-up"]) == 0
    for name in ("report.html", "report.md"):
        assert str(report.parent) not in (report / name).read_text()


def test_a_missing_study_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_cannot_be_written_to_is_one_line_and_exit_code_2(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("")
    assert main([str(report), "--out", str(tmp_path / "a file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_reports_are_made_without_torch_ray_transformers_or_mlflow() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_statistics_import_nothing_but_numpy_scipy_statsmodels_and_scoring() -> None:
    files = sorted((ROOT / "analysis" / "statistics").glob("*.py"))
    assert len(files) > 3
    for file in files:
        tree = ast.parse(file.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {
            name
            for node in imports
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        }
        third_party = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
        for name in third_party:
            assert name == "study.scoring" or name.startswith(("analysis.statistics.", "numpy", "scipy", "statsmodels"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_report_of_500_cells_is_a_page_that_can_be_sent(tmp_path: Path) -> None:
    text = TEXT.replace("examples: 1000", "examples: 50000").replace("seed: [0, 1]", "seed: [0, 1, 2, 3, 4]")
    text = text.replace(
        "  seed:", "  learning_rate: [1e-5, 2e-5, 5e-5, 1e-4, 2e-4]\n  batch_size: [16, 64, 256, 1024, 4096]\n  seed:"
    )
    path = study(tmp_path, text).write(tmp_path / "studies").path
    subprocess.run([sys.executable, "-m", "analysis.report", str(path)], check=True)
    assert (path / "report.html").stat().st_size < 5_000_000


@pytest.mark.chromium
@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_opens_in_a_browser(report: Path, browser: WebDriver, width: int, dark: bool) -> None:
    """Nothing is wider than the window, the browser logs nothing, and colours follow the reader's preference."""
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get((report / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(21, 23, 27)") == dark
    widths = browser.execute_script("return [...document.querySelectorAll('.panel svg')].map(s => s.clientWidth)")
    assert len(widths) > 8
    assert min(widths) > 250
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
