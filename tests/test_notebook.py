"""Runs and sweeps from a notebook do what the commands do, and leave its kernel alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from nbclient import NotebookClient
from tiny_sweeps import processes_in
from waiting import wait_until

from cnn_sweeps.errors import CommandError, ModelError
from cnn_sweeps.notebook import Result, run

NOTEBOOK = Path(__file__).parent.parent / "docs/first_sweep.ipynb"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, empty_database):
    """What the cells of the example show, by their ids; among the images that are predicted is a file that is none."""
    folder = tmp_path_factory.mktemp("notebook")
    shutil.copy(empty_database, folder / "mlflow.db")
    (folder / "outputs/images").mkdir(parents=True)
    (folder / "outputs/images/broken.png").write_text("no image")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(folder / name))
        NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}).execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def text_of(output):
    return output.data["text/plain"]


def test_sweep_shows_what_the_command_shows_and_gives_its_metrics(outputs):
    shown = "".join(output.text for output in outputs["search"])
    assert "2 trials of model.dropout" in shown
    assert "digits-4-vs-9: 600 train, 200 val, 200 test images" in shown
    assert "Ranking, 2 of 2 completed trials" in shown
    (best,) = outputs["metrics"]
    assert f"   1.  {float(text_of(best)):#.4g}" in shown


def test_best_trials_network_predicts_the_classes_of_images_and_files_that_are_none_are_named(outputs):
    *shown, table = outputs["predict"]
    left_out, counted, warning = "".join(output.text for output in shown).splitlines()
    assert left_out.startswith("left out: outputs/images/broken.png is no image")
    assert counted.startswith("4 images: ")
    assert warning == "warning: 1 of 5 files is no usable image and was left out, as named"
    files = [Path(line.split()[1]).name for line in text_of(table).splitlines()[1:]]
    assert files == ["4_0.png", "4_1.png", "9_500.png", "9_501.png"]


def test_error_is_one_line_and_the_kernel_goes_on(outputs):
    (error,) = outputs["mistake"]
    assert error.ename == "CommandError"
    assert error.traceback == ["error: training.epochs=0: should be greater than or equal to 1"]


def test_example_holds_no_outputs_which_age():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)


@pytest.mark.parametrize("leads_group", [True, False])  # as a kernel of Jupyter's does; as one that an editor starts
def test_interrupt_ends_the_command_and_the_process_that_called_it_goes_on(leads_group, tmp_path):
    load = "import time\ndef load(**_):\n    open('loading', 'x').close()\n    while True: time.sleep(0.01)\n"
    (tmp_path / "my_data.py").write_text(load)
    script = """if True:
        from cnn_sweeps.notebook import run
        try:
            run(["data=synthetic", "data._target_=my_data.load"])
        except KeyboardInterrupt as interrupt:
            print("goes on, and shows", *interrupt._render_traceback_())
    """
    command = [sys.executable, "-u", "-c", script]
    group = 0 if leads_group else None
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, process_group=group) as caller:
        wait_until((tmp_path / "loading").exists, "the data to be loaded")
        (os.killpg if leads_group else os.kill)(caller.pid, signal.SIGINT)
        assert caller.stdout.read().splitlines()[-1] == "goes on, and shows interrupted"
    assert caller.returncode == 0
    assert not processes_in(tmp_path)


def test_words_in_one_text_and_a_command_that_trains_nothing_are_refused():
    with pytest.raises(CommandError, match=r"model.l2=1: is a string; give a list of words, .* \['model.l2=1'\]"):
        run("model.l2=1")
    with pytest.raises(CommandError, match="--cfg job: trains nothing"):
        run(["--cfg", "job"])


def test_report_is_shown_as_it_is_and_cut_off_from_the_notebook(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/report.html").write_text("""<p title="a 'b'">95 % ± 1 &amp;</p>""")
    shown = Result(tmp_path, None, {}).report()._repr_html_()
    frame = ElementTree.fromstring(shown.replace("allowfullscreen", ""))
    assert frame.get("srcdoc") == """<p title="a 'b'">95 % ± 1 &amp;</p>"""
    assert frame.get("sandbox") == "allow-scripts"


def test_missing_report_and_model_are_told(tmp_path):
    result = Result(tmp_path, None, {})
    with pytest.raises(CommandError, match=r"there is no report\.html"):
        result.report()
    with pytest.raises(ModelError, match=r"this run kept no model; train with tracking\.log_model=true"):
        result.predict(["."])
