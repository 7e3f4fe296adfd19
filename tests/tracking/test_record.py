"""What a run writes into its own folder: whole lines, each epoch once, no passwords, and one run a record."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from records import change_owner, dead_owner

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.system.owners import owner_tags
from cnn_sweeps.tracking.database.address import uri_seen_from
from cnn_sweeps.tracking.record import record
from cnn_sweeps.tracking.record.entry import POSITION_FILE, RECORD_FILE, Data, SenselessError, read_entries, read_record
from cnn_sweeps.tracking.record.position import keep_position, num_waiting, read_position, store_of_record
from cnn_sweeps.tracking.record.record import FOLDER_TO, Record, close_if_died, find_records


def begun(folder, **tags):
    record = Record(folder)
    record.begin("experiment", "name", "sqlite:///mlflow.db", tags)
    return record


def kinds(folder):
    return [json.loads(line)["kind"] for line in (folder / RECORD_FILE).read_bytes().splitlines()]


def test_epoch_that_is_trained_again_after_a_kill_is_recorded_once(tmp_path):
    record = begun(tmp_path)
    for epoch in (1, 2, 3):
        record.log_metrics({"a": 1 / epoch, "b": 1.0}, epoch)
    again = Record(tmp_path)
    again.again()
    for epoch in (2, 3, 4):
        again.log_metrics({"a": 1 / epoch, "b": 1.0}, epoch)
    told = [(entry.epoch, list(entry.metrics)) for entry, _ in read_entries(tmp_path) if entry.kind == "metrics"]
    assert told == [(epoch, ["a", "b"]) for epoch in (1, 2, 3, 4)]


def test_line_that_was_cut_off_is_ignored_by_readers_and_cut_by_who_goes_on(tmp_path):
    record = begun(tmp_path)
    record.log_metrics({"a": 1.0}, 1)
    whole = (tmp_path / RECORD_FILE).read_bytes()
    with (tmp_path / RECORD_FILE).open("ab") as file:
        file.write(b'{"kind": "metr')
    assert read_record(tmp_path).metrics == {"a": {1: 1.0}}
    Record(tmp_path).again()
    assert (tmp_path / RECORD_FILE).read_bytes().startswith(whole + b'{"kind": "again"')
    assert kinds(tmp_path) == ["begin", "metrics", "again"]


def test_record_whose_first_line_was_cut_off_is_begun_anew(tmp_path):
    (tmp_path / RECORD_FILE).write_bytes(b'{"kind": "beg')
    assert read_record(tmp_path) is None
    begun(tmp_path).end("FINISHED")
    assert kinds(tmp_path) == ["begin", "end"]


def test_what_stands_between_an_end_and_its_going_on_does_not_count(tmp_path):
    record = begun(tmp_path)
    record.end("KILLED")
    record.log_metrics({"late": 1.0}, 1)
    record.log_tags({"late": "1"})
    record.again()
    record.log_metrics({"a": 1.0}, 1)
    recorded = read_record(tmp_path)
    assert recorded.metrics == {"a": {1: 1.0}}
    assert "late" not in recorded.tags
    assert recorded.status is None


@pytest.mark.parametrize("own", ["FINISHED", None])
def test_end_that_another_process_gives_later_replaces_the_own_one_and_is_as_of_the_last_entry(
    own, tmp_path, monkeypatch
):
    run = begun(tmp_path)
    if own is not None:
        run.end(own)
    last = read_record(tmp_path).last_time
    monkeypatch.setattr(record, "_now", lambda: last + 86_400_000)
    for _ in range(2):
        Record(tmp_path).close("KILLED", {"error": "the worker process died"})
    recorded = read_record(tmp_path)
    assert (recorded.status, recorded.tags["error"]) == ("KILLED", "the worker process died")
    assert recorded.last_time == last


@pytest.mark.parametrize(("owner", "is_closed"), [(dead_owner, True), (owner_tags, False), (dict, False)])
def test_record_of_a_dead_process_is_closed_at_the_time_of_its_last_entry(owner, is_closed, tmp_path):
    begun(tmp_path).log_metrics({"a": 1.0}, 1)
    change_owner(tmp_path, owner() or dict.fromkeys(owner_tags(), ""))
    last = read_record(tmp_path).last_time
    assert close_if_died(tmp_path) is is_closed
    assert kinds(tmp_path) == ["begin", "metrics", *(["end"] if is_closed else [])]
    assert read_record(tmp_path).last_time == last
    assert not close_if_died(tmp_path)


def test_record_that_is_set_aside_is_not_brought_to_its_store_again(tmp_path, monkeypatch):
    """Although a file that is the store is named as seen from the record's folder."""
    monkeypatch.chdir(tmp_path)
    folder, uri = tmp_path / "run", "sqlite:///mlflow.db"
    first = begun(folder)
    keep_position(
        folder, read_position(folder, uri).model_copy(update={"offset": (folder / RECORD_FILE).stat().st_size})
    )
    begun(folder)
    aside = folder / "earlier" / first.record_id
    assert store_of_record(aside, read_record(aside).begin) == f"sqlite:///{tmp_path}/mlflow.db"
    assert (num_waiting(aside, uri), num_waiting(folder, uri)) == (0, 1)


def test_new_run_in_the_same_folder_sets_the_earlier_record_aside_from_where_it_is_found(tmp_path):
    first = begun(tmp_path)
    first.end("FINISHED")
    begun(tmp_path)
    assert kinds(tmp_path) == ["begin"]
    aside = tmp_path / "earlier" / first.record_id
    assert kinds(aside) == ["begin", "end"]
    assert find_records(tmp_path) == [tmp_path, aside]


def test_folder_in_which_another_process_is_at_work_is_refused(tmp_path):
    begun(tmp_path)
    script = "from cnn_sweeps.system.owners import owner_tags; import json; print(json.dumps(owner_tags())); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-uc", script], **pipes) as other:
        change_owner(tmp_path, json.loads(other.stdout.readline()))
        with pytest.raises(ConfigError, match="another run works there"):
            begun(tmp_path)
        other.communicate("\n")
    begun(tmp_path)


@pytest.mark.parametrize("method", ["begin", "again"])
def test_folder_of_the_first_record_is_told_to_whoever_started_the_process(method, tmp_path, monkeypatch):
    begun(tmp_path / "left")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FOLDER_TO, str(tmp_path / "told"))
    if method == "again":
        Record(Path("left")).again()
    for name in ("left", "other"):
        begun(Path(name))
    assert (tmp_path / "told").read_text() == str(tmp_path / "left")


def test_passwords_are_kept_out_of_every_entry(tmp_path):
    secret = "postgresql://me:tell-nobody@host/db"
    record = Record(tmp_path)
    record.begin("experiment", "name", secret, {"repository": f"see {secret}"})
    record.log_params({"storage": secret})
    record.log_tags({"note": secret})
    record.add(Data(name="data", digest="abc", source=secret))
    assert "tell-nobody" not in (tmp_path / RECORD_FILE).read_text()
    assert read_record(tmp_path).params == {"storage": "postgresql://me:***@host/db"}
    keep_position(tmp_path, read_position(tmp_path, secret))
    assert "tell-nobody" not in (tmp_path / POSITION_FILE).read_text()


def test_places_in_the_working_folder_are_recorded_relative_to_it_so_that_it_can_be_moved(tmp_path, monkeypatch):
    before, now = tmp_path / "before", tmp_path / "now"
    before.mkdir()
    monkeypatch.chdir(before)
    folder = before / "outputs/a"
    record = Record(folder)
    record.begin("experiment", "name", f"sqlite:///{before}/mlflow.db", {})
    assert str(before) not in (folder / RECORD_FILE).read_text()
    before.rename(now)
    recorded = read_record(now / "outputs/a")
    assert recorded.tags["output.folder"] == "outputs/a"
    assert store_of_record(now / "outputs/a", recorded.begin) == f"sqlite:///{now}/mlflow.db"
    assert uri_seen_from(folder, "sqlite:////elsewhere/mlflow.db") == "sqlite:////elsewhere/mlflow.db"


def test_record_without_a_beginning_makes_no_sense(tmp_path):
    begun(tmp_path)
    with (tmp_path / RECORD_FILE).open("ab") as file:
        file.write((tmp_path / RECORD_FILE).read_bytes())
    with pytest.raises(SenselessError, match="`begin` should be first"):
        read_record(tmp_path)
