"""MLflow's own pages of a sweep, and its report, in a browser: what a person sees there without setting anything up.

Without Chromium these tests are skipped; one that the environment variable CHROMIUM names must be there. The README's
pictures are of the same pages, after the default sweep:

    CNN_SWEEPS_PICTURES=docs/pictures pytest tests/test_mlflow_ui.py
"""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_studies import made_sweep, made_trials
from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from tiny_sweeps import IN_THIS_PROCESS, SWEEP, all_runs, command_in
from waiting import LONGEST_S, wait_until

from cnn_sweeps.selection.sweep_report import write_report
from cnn_sweeps.system import machine_load

PICTURES = os.environ.get("CNN_SWEEPS_PICTURES")
ARGUMENTS = (
    ["--multirun"] if PICTURES else [*SWEEP, IN_THIS_PROCESS, "hydra.sweeper.n_trials=4", "evaluation.pictures=best"]
)
CHECKOUT = Path(__file__).parent.parent
SWEPT, OBJECTIVE = ("model.dropout", "model.l2", "optimizer.decay_rate"), "final_val_log_loss"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def browser():
    named = os.environ.get("CHROMIUM")
    found = [shutil.which(name) for name in ([named] if named else ["chromium", "chromium-browser", "google-chrome"])]
    program = next((path for path in found if path), None)
    if program is None and named:
        pytest.fail(f"CHROMIUM={named}: there is no such program; install it")
    if program is None:
        pytest.skip("no Chromium here; install it, or name a Chrome in the environment variable CHROMIUM")
    alone = ["background-networking", "component-update", "sync", "quic", "gpu"]
    with sync_playwright() as playwright:
        options = ["--no-first-run", *(f"--disable-{service}" for service in alone)]
        expect.set_options(timeout=1000 * LONGEST_S)
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def swept(browser, tmp_path_factory):
    """A folder as a checkout is, in which a sweep was run, its runs, and the address of `mlflow ui` there."""
    folder = tmp_path_factory.mktemp("swept")
    for name in ("mlruns", "outputs"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=lambda _, names: {*names} - {".gitignore"})
    with command_in(folder, folder) as run, pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_load, "FIRST_S", 0.0)
        run(*ARGUMENTS)
    runs = all_runs(folder)
    (sweep,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    trials = {run.info.run_name: run for run in runs if run is not sweep}
    complete = {name: run for name, run in trials.items() if run.data.tags["trial.state"] == "COMPLETE"}
    with mlflow_ui(folder) as address:
        yield SimpleNamespace(folder=folder, sweep=sweep, trials=trials, complete=complete, address=address)


@contextmanager
def mlflow_ui(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    with (folder / "ui.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: _answers(f"http://127.0.0.1:{port}/health"), "mlflow ui")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _answers(address):
    try:
        with urllib.request.urlopen(address, timeout=30):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def context(browser):
    """What all pages of the module share: the scripts that the browser has compiled."""
    context = browser.new_context(viewport={"width": 1340, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(1000 * LONGEST_S)
    yield context
    context.close()


@pytest.fixture
def page(context, swept):
    """A page of someone who has never been there: nothing that pages keep is left in the browser."""
    page = context.new_page()
    stored = {"origin": swept.address, "storageTypes": "cookies,indexeddb,local_storage,service_workers"}
    context.new_cdp_session(page).send("Storage.clearDataForOrigin", stored)
    close_assistant = page.get_by_role("button", name="Close")
    page.add_locator_handler(close_assistant, lambda button: button.click())
    yield page
    for each in context.pages:
        each.close()


def keep_picture(page, name):
    if PICTURES:
        page.mouse.move(0, 0)
        page.wait_for_timeout(2000)  # until nothing moves any more
        folder_of_the_test = page.get_by_text("Path: ")
        picture = Image.open(io.BytesIO(page.screenshot(mask=[folder_of_the_test], mask_color="white"))).convert("RGB")
        picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(Path(PICTURES, f"mlflow_{name}.png"), optimize=True)


def open_runs(page, swept):
    experiment = swept.sweep.info.experiment_id
    page.goto(f"{swept.address}/#/experiments/{experiment}/runs?workflowType=machine_learning")
    expect(row(page, swept.sweep.info.run_name)).to_be_visible()


def row(page, name):
    """The row of a run in the list of runs; the part that stays when the list is scrolled sideways."""
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def rows_of_trials(page):
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=re.compile(r"^trial \d+")))


def cells_below(page, column):
    """What the list shows in a column, from top to bottom, which is not the order in the document."""
    cells = page.get_by_role("gridcell").and_(page.locator(f"[col-id='{column}']"))
    place = "Number(cell.closest('[role=row]').getAttribute('aria-rowindex'))"
    texts = cells.evaluate_all(f"cells => cells.map(cell => [{place}, cell.innerText])")
    return [text for _, text in sorted(texts)]


def expand(page, swept):
    name = page.get_by_role("gridcell", name=swept.sweep.info.run_name)
    name.get_by_role("button").first.click()
    expect(rows_of_trials(page)).to_have_count(len(swept.trials))


def compared(page):
    """The values on each axis of the comparison's parallel coordinates, by the axis' title, from left to right."""
    plot = page.locator(".js-plotly-plot")
    expect(plot).to_be_visible()
    axes = plot.evaluate("plot => plot.data[0].dimensions.map(each => [each.label, Array.from(each.values)])")
    assert plot.locator(".axis-title").all_text_contents() == [title for title, _ in axes]
    return dict(axes)


def recorded(runs):
    """The same of some runs."""
    values = {key: [float(run.data.params[key]) for run in runs] for key in SWEPT}
    return values | {OBJECTIVE: [run.data.metrics[OBJECTIVE] for run in runs]}


def test_in_a_checkout_the_database_is_shown_not_the_folder_of_artifacts_beside_it(swept):
    assert (swept.folder / "mlruns/.gitignore").exists()
    assert "Using sqlite:///mlflow.db" in (swept.folder / "ui.log").read_text()
    assert MlflowClient(swept.address).get_run(swept.sweep.info.run_id).data.tags == swept.sweep.data.tags


def test_sweep_is_in_the_list_of_runs_and_expands_to_its_trials(page, swept):
    page.goto(f"{swept.address}/#/experiments")
    expect(page.get_by_role("link", name="cnn-sweeps")).to_be_visible()
    open_runs(page, swept)
    expect(rows_of_trials(page)).to_have_count(0)
    expand(page, swept)
    for name in swept.trials:
        expect(row(page, name)).to_have_count(1)
    keep_picture(page, "sweep")


def test_view_of_the_sweep_ranks_its_trials_beside_what_was_searched(page, swept):
    open_runs(page, swept)
    page.get_by_role("button", name="Views").click()
    page.get_by_role("menu").get_by_text(swept.sweep.info.run_name).click()
    expect(page.get_by_role("columnheader", name="optimizer.decay_rate").first).to_be_visible()
    expect(rows_of_trials(page)).to_have_count(len(swept.trials))
    best_first = sorted(swept.complete.values(), key=lambda run: run.data.metrics[OBJECTIVE])
    for column, values in recorded(best_first).items():
        kind = "metrics" if column == OBJECTIVE else "params"
        shown = cells_below(page, f"{kind}.`{column}`")
        assert len(shown) == len(swept.trials)
        assert [float(text) for text in shown[: len(values)]] == pytest.approx(values, rel=1e-3)
    keep_picture(page, "trials")


def test_sweeps_description_leads_to_its_trials_in_parallel_coordinates(page, swept):
    open_runs(page, swept)
    row(page, swept.sweep.info.run_name).get_by_role("link").click()
    link = page.get_by_role("link", name="The trials, ranked and drawn")
    with page.context.expect_page() as opened:
        link.click()
    opened.value.get_by_test_id("experiment-view-compare-runs-card").first.hover()
    opened.value.mouse.wheel(0, 500)  # charts are drawn once they are in sight
    axes = opened.value.locator(".parcoords .dimension")
    expect(axes).to_have_count(len(SWEPT) + 1)
    for axis, (title, values) in zip(axes.all(), recorded(swept.complete.values()).items(), strict=True):
        assert axis.locator(".label").text_content() == title
        ticks = [float(text) for text in axis.locator(".tick").all_text_contents()]
        assert len(ticks) >= 3
        assert min(values) <= ticks[0] < ticks[-1] <= max(values)
    keep_picture(opened.value, "chart")


def test_comparison_of_trials_draws_what_was_searched_against_the_objective(page, swept):
    open_runs(page, swept)
    expand(page, swept)
    for name in swept.complete:
        row(page, name).get_by_role("checkbox", name="toggle row selection").click()
    page.get_by_test_id("runs-compare-button").click()
    axes = compared(page)
    assert list(axes) == [*SWEPT, "best_val_log_loss"]  # which ranks them as the sweep does
    axes[OBJECTIVE] = axes.pop("best_val_log_loss")
    for column, values in recorded(swept.complete.values()).items():
        assert sorted(axes[column]) == sorted(values)
    keep_picture(page, "comparison")


def test_comparison_that_takes_in_the_sweeps_own_run_finds_only_what_was_searched_to_differ(page, swept):
    open_runs(page, swept)
    expand(page, swept)
    row(page, swept.sweep.info.run_name).get_by_role("checkbox", name="toggle row selection").click()
    page.get_by_test_id("runs-compare-button").click()
    assert list(compared(page))[:-1] == list(SWEPT)
    assert len(compared(page)["model.l2"]) == len(swept.trials) + 1


def test_report_among_the_artifacts_is_shown_with_its_charts(page, swept):
    open_runs(page, swept)
    row(page, swept.sweep.info.run_name).get_by_role("link").click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html", exact=True).click()
    report = page.frame_locator("iframe.mlflow-html-iframe")
    expect(report.get_by_text("is the chosen one")).to_be_visible()
    expect(report.locator(".js-plotly-plot")).to_have_count(report_charts(swept))
    keep_picture(page, "artifact")


def check_begins_in_sight(page, text):
    """See that a run's page begins with a text, and has its right column in sight, and nothing that is for us."""
    description = page.get_by_text(text).first
    expect(description).to_be_visible()
    link, fading = page.get_by_role("link", name="ranked and drawn"), page.get_by_test_id("truncation-gradient")
    expect(link).to_be_in_viewport()
    box, faded = link.bounding_box(), fading.bounding_box()  # above "Show more" the lower part of the text fades out
    assert box["y"] + box["height"] < faded["y"] + faded["height"] / 2
    run_id = page.url.rpartition("/")[2].partition("?")[0]
    for right in ("About this run", "Datasets", "Finished", run_id):  # which one long line would push off the page
        expect(page.get_by_text(right, exact=True).first).to_be_in_viewport(ratio=0.95)  # part of a pixel may be cut
    assert page.get_by_text(re.compile(r"^(owner\.|command)")).count() == 0


@pytest.mark.parametrize("width", [1340, 1600])
def test_pages_of_a_sweep_and_a_trial_begin_with_what_came_out_and_show_their_right_column(page, swept, width):
    page.set_viewport_size({"width": width, "height": 1000})
    best = min(swept.complete.values(), key=lambda run: run.data.metrics[OBJECTIVE])
    told = f"Best: trial {best.data.tags['trial.number']}, val_log_loss {best.data.metrics[OBJECTIVE]:.4g}"
    for run, text in ((swept.sweep, told), (best, f"Chosen by the sweep {swept.sweep.info.run_name}")):
        page.goto(f"{swept.address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}")
        check_begins_in_sight(page, text)
        if width == 1600:
            keep_picture(page, "page" if run is swept.sweep else "trial")
        page.get_by_text("Show more").click()
        expect(page.get_by_text("python -m cnn_sweeps.predict PHOTOS")).to_be_in_viewport()


def test_load_of_the_machine_is_drawn_in_a_tab_of_its_own(page, swept):
    best = min(swept.complete.values(), key=lambda run: run.data.metrics[OBJECTIVE])
    page.goto(f"{swept.address}/#/experiments/{best.info.experiment_id}/runs/{best.info.run_id}")
    page.get_by_role("tab", name="System metrics").click()
    of_memory = ("system_memory_usage_megabytes", "system_memory_usage_percentage")
    assert titles(page, 3) == ["cpu_utilization_percentage", *of_memory]
    page.get_by_role("tab", name="Model metrics").click()
    expect(page.get_by_text("val_log_loss").first).to_be_visible()
    expect(page.get_by_text("cpu_utilization")).to_have_count(0)


def titles(page, number):
    """The titles of the first charts, from the top."""
    cards = page.get_by_test_id("experiment-view-compare-runs-card")
    expect(cards.nth(number - 1)).to_be_visible()
    return [card.inner_text().partition("\n")[0] for card in cards.all()[:number]]


def test_address_that_the_command_ends_with_shows_the_learning_curves_first_then_bars_and_a_scatter(page, swept):
    (log,) = swept.folder.glob("outputs/sweeps/*/sweep.log")
    *_, command, address = log.read_text().splitlines()
    assert "  mlflow ui" in command
    page.goto(address.rpartition("  ")[2].replace("http://127.0.0.1:5000", swept.address))
    expect(rows_of_trials(page)).to_have_count(len(swept.trials))
    assert titles(page, 3) == ["val_log_loss", OBJECTIVE, f"model.dropout vs. {OBJECTIVE}"]


def test_view_of_all_runs_has_sweeps_and_trials_in_one_ranking_under_names_that_tell_them_apart(page, swept):
    open_runs(page, swept)
    page.get_by_role("button", name="Views").click()
    page.get_by_role("menu").get_by_text("all runs").click()
    expect(page.get_by_role("columnheader", name="test_accuracy").first).to_be_visible()
    for name in ("synthetic tiny", *swept.trials) if not PICTURES else swept.trials:
        expect(row(page, name)).to_have_count(1)
    assert all(re.match(r"trial \d+: dropout=\S+ l2=\S+ decay_rate=", name) for name in swept.trials)
    best_first = cells_below(page, f"metrics.`{OBJECTIVE}`")
    assert len(best_first) == len(swept.trials) + 1
    assert best_first[0] == best_first[1]  # the sweep has what its best trial has
    assert cells_below(page, "params.`model.l2`")[0] != ""
    keep_picture(page, "all_runs")


def test_data_set_shows_what_its_images_are_and_how_many(page, swept):
    open_runs(page, swept)
    page.get_by_text(re.compile(r"^(synthetic|digits\S*) \(\w+\)$")).first.click()
    is_told = "text => document.body.innerText.includes(text)"  # what looks for an element closes the panel again
    for text in ("images of each class:", "uint8, "):
        page.wait_for_function(is_told, arg=text)


def test_models_are_listed_by_data_and_network_with_their_data_set_and_a_version_says_how_good_it_is(page, swept):
    page.goto(f"{swept.address}/#/experiments/{swept.sweep.info.experiment_id}/models?workflowType=machine_learning")
    expect(page.get_by_role("link", name=re.compile("^(synthetic|digits.*)-cnn$"))).to_be_visible()
    page.goto(f"{swept.address}/#/models")
    page.get_by_role("link", name=re.compile("^cnn-sweeps-")).first.click()
    page.get_by_role("link", name="Version 1").first.click()
    expect(page.get_by_text("Test images: log loss")).to_be_visible()
    expect(page.get_by_text("model=models:/cnn-sweeps-")).to_be_visible()
    keep_picture(page, "champion")


def report_charts(swept):
    return report_file(swept).read_text().count("data-chart=")


def report_file(swept):
    (file,) = swept.folder.glob("outputs/sweeps/*/report/report.html")
    return file


@pytest.fixture
def opened(browser):
    """Open a file in a browser without a network; what goes wrong there, and what it asks for, is in the list."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True)
    page, wrong = context.new_page(), []
    page.set_default_timeout(1000 * LONGEST_S)
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or wrong.append(asked.url))

    def opened(file):
        page.goto(file.as_uri())
        expect(page.locator(".js-plotly-plot")).to_have_count(page.locator("[data-chart]").count())
        return page

    yield SimpleNamespace(open=opened, wrong=wrong)
    context.close()


def test_sweeps_report_opens_without_a_network_and_is_as_wide_as_a_telephone(opened, swept):
    page = opened.open(report_file(swept))
    assert report_file(swept).stat().st_size < 6_000_000
    assert page.locator(".js-plotly-plot").count() >= 6
    keep_picture(page, "report")
    charts = "[...document.querySelectorAll('.svg-container')].map(each => each.offsetWidth)"
    fits = f"Math.max(document.documentElement.scrollWidth, ...{charts}) <= innerWidth"
    for width in (1400, 390):
        page.set_viewport_size({"width": width, "height": 900})
        wait_until(lambda: page.evaluate(fits), "charts as wide as the page")
    plots = page.locator(".js-plotly-plot")
    points = plots.evaluate_all("plots => plots.flatMap(plot => plot.data.flatMap(trace => trace.text ?? []))")
    assert any(text.startswith("trial 3, ") for text in points)
    assert opened.wrong == []


def test_names_that_are_markup_are_text_in_a_report_and_nothing_of_them_runs(opened, tmp_path):
    trials = made_trials(12)
    write_report(tmp_path, made_sweep(trials), [], None, with_charts=True)
    page = opened.open(tmp_path / "report.html")
    expect(page.get_by_role("heading", name="<i>made</i>")).to_be_visible()
    expect(page.get_by_text("<img src=x onerror=alert(1)>: 60 images")).to_be_visible()
    ticks = page.locator(".xtick").all_text_contents()
    assert {"<script>alert(1)</script>", "cnn"} <= set(ticks)
    assert page.locator("b, img, i").count() == 0
    assert opened.wrong == []


def test_script_that_somebody_writes_into_a_report_does_not_run(opened, tmp_path):
    write_report(tmp_path, made_sweep(made_trials(12)), [], None, with_charts=True)
    file = tmp_path / "report.html"
    file.write_text(file.read_text().replace("<h1>", "<script>alert(1)</script><img src=x onerror=alert(1)><h1>"))
    opened.open(file)
    assert opened.wrong
    assert all("Content Security Policy" in each for each in opened.wrong)
