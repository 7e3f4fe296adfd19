"""A sweep's report says what its trials say: of studies that were made up."""

import json
import re

import pytest
from made_studies import made_sweep, made_trials
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from cnn_sweeps.selection.charts.course import draw_front, draw_history, draw_learning_curves, draw_timeline
from cnn_sweeps.selection.charts.drawn_study import Study, tell_trials
from cnn_sweeps.selection.charts.effects import describe_effects
from cnn_sweeps.selection.charts.settings import draw_parallel, draw_slices, rank_importance
from cnn_sweeps.selection.sweep_report import write_report
from cnn_sweeps.text.commands import Command

COMMANDS = [Command("To repeat it:", "python -m cnn_sweeps.train --multirun 'model.l2=<tag>'")]
TRIALS = made_trials(20)
RANKING = sorted((trial for trial in TRIALS if trial.values), key=lambda trial: trial.values[0])
STUDY = Study(TRIALS, RANKING, ["val_log_loss"], minimize=True)


def page_of(folder, swept, *, with_charts=True):
    write_report(folder, swept, COMMANDS, None, with_charts=with_charts)
    return (folder / "report.html").read_text()


def test_report_says_in_sentences_what_was_found_and_names_are_text_in_it(tmp_path):
    page = page_of(tmp_path, made_sweep(TRIALS))
    best = RANKING[0]
    assert "20 trials searched for the best validation log loss over model.dropout, model.l2, &lt;b&gt;x" in page
    assert "16 completed, 4 pruned" in page
    assert f"Trial {best.number} is the chosen one: validation log loss {best.value:.4g}" in page
    assert "2 of them are not clearly worse than the best." in page
    assert "Of the settings, model.dropout explains most of the differences" in page
    assert "It was not tested" in page
    assert "<h1>Sweep &lt;i&gt;made&lt;/i&gt;</h1>" in page
    assert not re.search("<img|<i>|<b>x|<script>|<tag>", page)


def test_charts_are_those_of_the_trials_and_each_point_tells_its_trial(tmp_path):
    page = page_of(tmp_path, made_sweep(TRIALS))
    charts = json.loads(re.search("const charts = (.*);", page)[1])
    told = json.loads(re.search("const told = (.*);", page)[1])
    assert len(charts) == page.count("data-chart=") == 8
    assert sorted(told, key=int) == [str(trial.number) for trial in TRIALS]
    assert told["1"].startswith("trial 1, completed<br>val_log_loss ")
    assert told["1"].endswith("&lt;b&gt;x&lt;/b&gt;=&lt;script&gt;alert(1)&lt;/script&gt;")  # plotly.js reads tags


def test_report_of_as_many_trials_as_anyone_has_stays_below_6_mb(tmp_path):
    write_report(tmp_path, made_sweep(made_trials(5000, num_epochs=100)), COMMANDS, None, with_charts=True)
    assert (tmp_path / "report.html").stat().st_size < 5_000_000  # and 1 MB for the champion's own report


def test_sweep_that_went_on_with_other_bounds_is_told_of_all_that_was_searched():
    trials = made_trials(20)
    for trial in trials[:10]:
        trial.distributions = trial.distributions | {"model.dropout": FloatDistribution(0.0, 0.9)}
    ranking = sorted((trial for trial in trials if trial.values), key=lambda trial: trial.values[0])
    study = Study(trials, ranking, ["val_log_loss"], minimize=True)
    importance = rank_importance(study)
    assert next(iter(importance)) == "model.dropout"
    assert describe_effects(study, importance)[0].searched == "0 to 0.9"


def test_few_trials_are_not_said_to_tell_which_setting_matters(tmp_path):
    page = page_of(tmp_path, made_sweep(TRIALS[:12]))
    assert "10 completed trials are too few to say which setting matters most: at least 16 are needed." in page
    assert "mportance" not in page.partition("<script")[0]


def test_report_without_charts_is_small_and_has_no_script(tmp_path):
    page = page_of(tmp_path, made_sweep(TRIALS), with_charts=False)
    assert len(page) < 50_000
    assert "<script" not in page


def test_sweep_of_which_no_trial_completed_has_a_report(tmp_path):
    page = page_of(tmp_path, made_sweep([trial for trial in TRIALS if not trial.values]))
    assert "4 trials searched" in page
    assert "champion" not in page


def test_history_has_every_completed_and_pruned_trial_and_the_best_so_far():
    completed, pruned, best = draw_history(STUDY).traces
    assert sorted([*completed["trials"], *pruned["trials"]]) == list(range(20))
    assert pruned["trials"] == [4, 9, 14, 19]
    assert best["y"] == sorted(best["y"], reverse=True)
    assert best["y"][-1] == RANKING[0].value


def test_curves_are_of_all_trials_or_of_the_best_and_an_even_sample_of_many():
    assert sorted(trace["trials"] for trace in draw_learning_curves(STUDY).traces) == list(range(20))
    many = made_trials(1000, num_epochs=2)
    ranking = sorted((trial for trial in many if trial.values), key=lambda trial: trial.values[0])
    chart = draw_learning_curves(Study(many, ranking, ["val_log_loss"], minimize=True))
    drawn = [trace["trials"] for trace in chart.traces]
    assert {trial.number for trial in ranking[:100]} <= set(drawn)
    assert 150 < len(drawn) <= 200
    assert drawn[-1] == ranking[0].number  # above the others
    assert "Of 1,000 trials" in chart.note


def test_slices_are_on_the_axes_of_the_search_with_the_best_above_the_others():
    kinds = {chart.title: chart.layout["xaxis"]["type"] for chart in draw_slices(STUDY)}
    assert kinds == {"model.dropout": "linear", "model.l2": "log", "<b>x</b>": "category"}
    for chart in draw_slices(STUDY):
        assert chart.traces[0]["trials"][-1] == RANKING[0].number


def test_parallel_coordinates_go_from_the_least_to_the_greatest_value_of_each_axis():
    chart = draw_parallel(STUDY)
    lines = {trace["trials"]: trace["y"] for trace in chart.traces}
    for axis, key in enumerate(("model.dropout", "model.l2")):
        values = {trial.number: trial.params[key] for trial in RANKING}
        assert sorted(values, key=values.get) == sorted(lines, key=lambda number: lines[number][axis])
        assert {lines[min(values, key=values.get)][axis], lines[max(values, key=values.get)][axis]} == {0, 1}
    middle = next(t for t in RANKING if 1e-5 < t.params["model.l2"] < 1e-3)
    assert 0.2 < lines[middle.number][1] < 0.8  # logarithmic
    assert {text["text"] for text in chart.layout["annotations"]} >= {"cnn", "&lt;script&gt;alert(1)&lt;/script&gt;"}


def test_parallel_coordinates_of_two_objectives_tell_the_front_from_the_others():
    trials = [trial for trial in made_trials(20, num_objectives=2) if trial.values]
    chart = draw_parallel(Study(trials, trials, ["val_log_loss", "num_parameters"], minimize=True, num_best=3))
    assert [trace["name"] for trace in chart.traces] == ["others"] * (len(trials) - 3) + ["Pareto front"] * 3


def test_pareto_front_is_told_from_the_others():
    trials = [trial for trial in made_trials(20, num_objectives=2) if trial.values]
    chart = draw_front(Study(trials, trials, ["val_log_loss", "num_parameters"], minimize=True, num_best=3))
    others, front = chart.traces
    assert len(front["x"]) == 3
    assert front["x"] == sorted(front["x"])
    assert len(others["x"]) == len(trials) - 3


def test_timeline_has_each_trial_from_its_beginning_as_long_as_it_took():
    bars = [
        bar for trace in draw_timeline(STUDY).traces for bar in zip(trace["y"], trace["base"], trace["x"], strict=True)
    ]
    assert sorted(bars)[1] == (1, "2026-11-28 16:00:01.000", 2000)
    assert len(bars) == 20


def test_effects_say_in_which_direction_it_gets_better_only_where_that_is_sure():
    effects = {effect.name: effect for effect in describe_effects(STUDY, rank_importance(STUDY))}
    assert next(iter(effects)) == "model.dropout"
    dropout = effects["model.dropout"]
    assert dropout.tendency.startswith("smaller is better: rank correlation +1.00 (")
    assert dropout.searched == "0 to 0.6"
    assert float(dropout.good.split(" to ")[1]) < 0.25
    assert effects["model.l2"].searched == "1e-06 to 0.01, log"
    assert effects["model.l2"].tendency.startswith("no clear direction")
    assert "cnn: median " in effects["<b>x</b>"].tendency
    other_way = STUDY._replace(minimize=False)
    assert describe_effects(other_way, {})[0].tendency.startswith("larger is better")


@pytest.mark.parametrize("number", [1, 3])
def test_few_trials_say_nothing_of_a_setting(number):
    study = Study(TRIALS[:number], TRIALS[:number], ["val_log_loss"], minimize=True)
    assert rank_importance(study) == {}
    assert all(
        "too few trials to say: at least 8 are needed" in each.tendency
        for each in describe_effects(study, {})
        if each.name != "<b>x</b>"
    )


def test_trial_that_failed_says_why():
    failed = create_trial(state=TrialState.FAIL, user_attrs={"error": "cannot <go> on"})
    assert tell_trials(STUDY._replace(trials=[failed]))[failed.number] == "trial -1, failed<br>cannot &lt;go&gt; on"
