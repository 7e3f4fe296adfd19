"""What is done with chosen trials, beside the measuring that whole sweeps show."""

import gc
import logging
import socket
from types import SimpleNamespace

import pytest
from conftest import compose
from optuna.trial import TrialState, create_trial

from cnn_sweeps.experiment.kept import TrialFolder
from cnn_sweeps.selection import application, champion
from cnn_sweeps.selection.application import CnnSweep
from cnn_sweeps.selection.champion import evaluate_trial, logged_to
from cnn_sweeps.settings.stored_config import Trusted
from cnn_sweeps.tracking.entry import read_run
from cnn_sweeps.tracking.record import Record


def test_log_of_the_block_is_in_the_file_alone_and_the_handlers_of_before_are_back_after_it(tmp_path, caplog):
    root = logging.getLogger()
    before = root.handlers, root.level
    with logged_to(tmp_path / "block.log"):
        logging.getLogger("any").info("inside")
    assert (root.handlers, root.level) == before
    logging.getLogger("any").warning("after")
    assert (tmp_path / "block.log").read_text() == "inside\n"
    assert caplog.messages == ["after"]


@pytest.mark.parametrize("step", ["log", "report"])
def test_trial_counts_as_tested_once_all_is_done_so_that_a_test_that_is_cut_off_is_done_again(
    step, tmp_path, monkeypatch
):
    record = Record(tmp_path)
    record.begin("chosen", "trial 0", "sqlite:///mlflow.db", {})
    record.end("FINISHED")
    measured = SimpleNamespace(intervals={}, threshold=None), {"test_accuracy": 0.5}
    trained = SimpleNamespace(
        part=SimpleNamespace(config=compose()),
        record=record,
        evaluate=lambda on_test: measured,
        log=lambda metrics: record.log_metrics(metrics, 1),
        report=lambda _evaluation: [],
    )
    for name, answer in (("_load_trained", trained), ("find_store", ""), ("describe_test", ""), ("project", "run")):
        monkeypatch.setattr(champion, name, lambda *_, answer=answer: answer)

    def cut_off(*_):
        raise KeyboardInterrupt

    arguments = (TrialFolder(str(tmp_path), 0, "", Trusted()), {}, 0.5, True, False)
    with monkeypatch.context() as patch:
        patch.setattr(trained, step, cut_off)
        with pytest.raises(KeyboardInterrupt):
            evaluate_trial(*arguments)
    assert "test.evaluated" not in read_run(tmp_path).tags
    evaluate_trial(*arguments)
    recorded = read_run(tmp_path)
    assert (recorded.tags["test.evaluated"], recorded.metrics["test_accuracy"]) == ("true", {1: 0.5})


def test_trial_whose_weights_are_on_another_host_or_gone_is_told(tmp_path):
    sweep, trial = CnnSweep(), create_trial(state=TrialState.COMPLETE, value=0.5)
    sweep._folder, trial.number = tmp_path, 0
    for host, told in (
        ("there", "trial 0: its weights are on there; the same command there tests it"),
        (socket.gethostname(), "trial 0: its weights were not kept; train it again to test it"),
    ):
        trial.set_user_attr("owner", {"owner.host": host})
        assert sweep._evaluate(trial, None, is_best=True) == [told]


def test_controller_of_a_sweep_collects_garbage(monkeypatch):
    """No task begins in its process, from which on others do."""

    class BegunError(Exception):
        pass

    def prepare_libraries():
        raise BegunError

    launcher = SimpleNamespace(get=lambda: SimpleNamespace(launcher={}))
    monkeypatch.setattr(application, "HydraConfig", launcher)
    monkeypatch.setattr(application, "prepare_libraries", prepare_libraries)
    gc.disable()
    try:
        with pytest.raises(BegunError):
            CnnSweep().begin(None, {}, None)
        assert gc.isenabled()
    finally:
        gc.enable()
