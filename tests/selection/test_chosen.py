"""What is done with chosen trials, beside the measuring that whole sweeps show."""

import gc
import logging
import socket
from types import SimpleNamespace

import pytest
from conftest import compose
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from cnn_sweeps.experiment.trial_folder import WEIGHTS_FILE, TrialFolder
from cnn_sweeps.selection import application, chosen
from cnn_sweeps.selection import finishing as finishing_module
from cnn_sweeps.selection.application import CnnSweep
from cnn_sweeps.selection.chosen import Retraining, evaluate_trial, logged_to
from cnn_sweeps.selection.finishing import Finishing
from cnn_sweeps.selection.standing import Standing
from cnn_sweeps.settings.schema import ReportConfig
from cnn_sweeps.settings.stored_config import Trusted
from cnn_sweeps.tracking.record.entry import read_record
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.training.progress import TrainingProgress


def test_log_of_the_block_is_in_the_file_alone_and_the_handlers_of_before_are_back_after_it(tmp_path, caplog):
    root = logging.getLogger()
    before = root.handlers, root.level
    with logged_to(tmp_path / "block.log"):
        logging.getLogger("any").info("inside")
    assert (root.handlers, root.level) == before
    logging.getLogger("any").warning("after")
    assert (tmp_path / "block.log").read_text() == "inside\n"
    assert caplog.messages == ["after"]


@pytest.mark.parametrize("step", ["log_outcome", "report"])
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
        log_outcome=lambda *_: None,
        report=lambda _evaluation: [],
    )
    for name, answer in (
        ("_load_trained", trained),
        ("find_existing_store", ""),
        ("describe_test", ""),
        ("project", "run"),
    ):
        monkeypatch.setattr(chosen, name, lambda *_, answer=answer: answer)

    def cut_off(*_):
        raise KeyboardInterrupt

    arguments = (TrialFolder(str(tmp_path), 0, "", Trusted()), {}, 0.5, True, False, ReportConfig())
    with monkeypatch.context() as patch:
        patch.setattr(trained, step, cut_off)
        with pytest.raises(KeyboardInterrupt):
            evaluate_trial(*arguments)
    _, done = evaluate_trial(*arguments)  # which the study is told
    assert done == {"tested.0": {"test_accuracy": 0.5}}
    assert read_record(tmp_path).metrics["test_accuracy"] == {0: 0.5}


@pytest.fixture
def finishing(tmp_path):
    """The end of a sweep of which the study notes what it is given."""

    def finishing(**noted):
        study = SimpleNamespace(name="sweep", optuna_study=SimpleNamespace(user_attrs=noted))
        return Finishing(study, compose(), tmp_path, "", Trusted(), None)

    return finishing


def completed(number, space=None, **attributes):
    space = space or {}
    point = {key: each.to_external_repr(0) for key, each in space.items()}
    trial = create_trial(state=TrialState.COMPLETE, value=0.5, params=point, distributions=space, user_attrs=attributes)
    trial.number = number
    return trial


def test_trial_whose_weights_are_on_another_host_or_gone_is_told(finishing):
    for host, told in (
        ("there", "trial 0: its weights are on there; run the same command there to test it"),
        (socket.gethostname(), "trial 0: its weights were not kept; train it again to test it"),
    ):
        trial = completed(0, owner={"owner.host": host})
        assert finishing().evaluate(trial, is_best=True) == [told]


def test_what_the_study_says_was_done_is_not_done_again_wherever_the_weights_are(finishing):
    done = finishing(**{"tested.0": {"test_accuracy": 0.5}, "registered": 0})
    assert done.evaluate(completed(0), is_best=True) == ["trial 0 was tested before: accuracy 0.5000"]
    for strange in ("", [], 1):
        (told,) = finishing(**{"tested.0": strange}).evaluate(completed(0), is_best=True)
        assert "its weights are" in told


def test_what_an_earlier_version_has_noted_in_a_trials_record_alone_is_not_done_again(finishing, tmp_path):
    record = Record(tmp_path / "0")
    record.begin("chosen", "trial 0", "sqlite:///mlflow.db", {})
    record.log_metrics({"test_accuracy": 0.5}, 1)
    record.log_tags({"test.evaluated": "true", "registered.model": "true"})
    (tmp_path / "0" / WEIGHTS_FILE).touch()
    assert finishing().evaluate(completed(0), is_best=True) == ["trial 0 was tested before: accuracy 0.5000"]


def test_ablation_has_what_the_study_does_not_say_of_a_trial_from_its_record(finishing, tmp_path, monkeypatch):
    """As of trials of an earlier version, or while the study's storage was away."""
    trainings = []
    monkeypatch.setattr(finishing_module, "write_table", lambda *_: None)
    monkeypatch.setattr(finishing_module, "write_ablation", lambda each, *_: trainings.extend(each))
    for name in ("multirun.yaml", "optimization_results.yaml"):
        (tmp_path / name).touch()
    record = Record(tmp_path / "0")
    record.begin("chosen", "trial 0", "sqlite:///mlflow.db", {})
    record.log_metrics({"final_val_accuracy": 0.75}, 1)
    space = {"ablation": CategoricalDistribution(["l2"]), "seed": IntDistribution(0, 1)}
    trials = [completed(0, space), completed(1, space, final={"final_val_accuracy": 0.5})]
    finishing()._report(Standing(trials, None, {}, trials))
    assert [each.metrics for each in trainings] == [{"final_val_accuracy": 0.75}, {"final_val_accuracy": 0.5}]


def test_controller_of_a_sweep_collects_garbage(monkeypatch):
    """No task begins in its process, from which on others do."""

    class BegunError(Exception):
        pass

    def forget_images():
        raise BegunError

    launcher = SimpleNamespace(get=lambda: SimpleNamespace(launcher={}))
    monkeypatch.setattr(application, "HydraConfig", launcher)
    monkeypatch.setattr(application, "describe_store", lambda _store: [])
    monkeypatch.setattr(application, "forget_images", forget_images)
    gc.disable()
    try:
        with pytest.raises(BegunError):
            CnnSweep().begin(None, {}, None, print)
        assert gc.isenabled()
    finally:
        gc.enable()


def test_settings_of_a_trial_are_those_of_its_record_and_none_where_that_makes_no_sense(tmp_path):
    swept = CnnSweep()
    swept._folder = tmp_path
    assert swept._settings_of(completed(0)) == {}
    record = Record(tmp_path / "0")
    record.begin("chosen", "trial 0", "sqlite:///mlflow.db", {})
    record.log_params({"model.l2": 0.001})
    assert swept._settings_of(completed(0)) == {"model.l2": "0.001"}
    (tmp_path / "0" / "record.jsonl").write_text("nonsense\n")
    assert swept._settings_of(completed(0)) == {}


@pytest.mark.parametrize(
    ("restores_best", "best_epoch", "ends"),
    [(True, 7, (3, 5)), (True, 3, (3, None)), (False, 3, (5, 8))],  # of three further epochs after five
)
def test_retraining_stops_where_the_weights_of_the_trial_came_from_at_the_learning_rates_of_all_its_epochs(
    restores_best, best_epoch, ends
):
    settings = ["training.epochs=5", "training.fine_tune_epochs=3", "model.fine_tune=2"]
    restore = f"training.restore_best_weights={str(restores_best).lower()}"
    config = compose("model=pretrained", *settings, restore)
    of_trial = TrainingProgress([{}] * 8, best_epoch, fine_tuned_after=5, best_epoch_before=3)
    role, progress = Retraining(config, of_trial), TrainingProgress()
    assert role.config.training == config.training  # by which a cosine goes to zero

    def epochs_to_the_end():
        progress.history.append({})
        while not role.after_epoch(progress):
            progress.history.append({})
        return progress.epochs_done

    assert epochs_to_the_end() == ends[0]
    assert role.config.fine_tune == (0 if ends[1] is None else 2)
    if ends[1] is not None:
        progress.fine_tuned_after = progress.epochs_done
        assert epochs_to_the_end() == ends[1] == role.num_epochs
