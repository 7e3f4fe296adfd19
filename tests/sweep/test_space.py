"""Hydra's override strings mean one distribution each, and Optuna's values go back as overrides of the same value."""

import math
from itertools import pairwise

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.command_line import VERSION_BASE
from cnn_sweeps.sweep.space import extreme_values, find_value, override_text, parse_search_space


@pytest.fixture
def loader(tmp_path):
    """The loader of a configuration with the group `model`, of the options huge, large and small."""
    (tmp_path / "model").mkdir()
    for option in ("small", "large", "huge"):
        (tmp_path / "model" / f"{option}.yaml").write_text("width: 1\n")
    (tmp_path / "config.yaml").write_text("defaults: [model: small]\nx: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), **VERSION_BASE):
        yield GlobalHydra.instance().config_loader()


def parse(loader, *arguments, params=None, is_preset_chosen=False):
    return parse_search_space(arguments, params or {}, loader, is_preset_chosen=is_preset_chosen)


def parse_one(loader, text):
    ((_, distribution),) = parse(loader, text).distributions.items()
    return distribution


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("x=interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("x=interval(1,10)", FloatDistribution(1.0, 10.0)),
        ("x=interval(-1.5,2)", FloatDistribution(-1.5, 2.0)),
        ("x=interval(3,3)", FloatDistribution(3.0, 3.0)),
        ("x=tag(log,interval(1e-6,1e-2))", FloatDistribution(1e-6, 1e-2, log=True)),
        ("x=tag(log,interval(1,10))", FloatDistribution(1.0, 10.0, log=True)),
        ("x=int(interval(1,10))", IntDistribution(1, 10)),
        ("x=int(interval(1.5,10.7))", IntDistribution(1, 10)),
        ("x=tag(log,int(interval(1,100)))", IntDistribution(1, 100, log=True)),
        ("x=int(tag(log,interval(1,100)))", IntDistribution(1, 100, log=True)),
        ("x=float(interval(1,3))", FloatDistribution(1.0, 3.0)),
        ("x=range(1,4)", IntDistribution(1, 3)),
        ("x=range(4)", IntDistribution(0, 3)),
        ("x=range(0,10,5)", IntDistribution(0, 5, step=5)),
        ("x=range(0,11,5)", IntDistribution(0, 10, step=5)),
        ("x=range(5,0,-2)", IntDistribution(1, 5, step=2)),
        ("x=range(10,0,-5)", IntDistribution(5, 10, step=5)),
        ("x=range(0,1,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("x=range(0,1.1,0.5)", FloatDistribution(0.0, 1.0, step=0.5)),
        ("x=range(0,0.3,0.1)", FloatDistribution(0.0, 0.2, step=0.1)),
        ("x=range(1.0,0.0,-0.25)", FloatDistribution(0.25, 1.0, step=0.25)),
        ("x=float(range(1,3))", FloatDistribution(1.0, 2.0, step=1.0)),
        ("x=sort(range(1,5),reverse=true)", IntDistribution(1, 4)),
        ("x=range(1,2)", CategoricalDistribution([1])),
    ],
)
def test_numbers_in_a_row_are_a_distribution_of_numbers(loader, text, distribution):
    assert parse_one(loader, text) == distribution


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("x=1,2,3", [1, 2, 3]),
        ("x=choice(1,2)", [1, 2]),
        ("x=choice(3)", [3]),
        ("x=1e-3,1e-4", [1e-3, 1e-4]),
        ("x=1,1,2", [1, 2]),
        ("x=a,b", ["a", "b"]),
        ("x=true,false", [True, False]),
        ("x=true,1", [True, 1]),
        ("x=null,1,a", [None, 1, "a"]),
        ("x='a,b',c", ["a,b", "c"]),
        ("x='a b',c", ["a b", "c"]),
        ('x="it\'s",\'say "so"\'', ["it's", 'say "so"']),
        ("x='it\\'s',b", ["it's", "b"]),
        ("x='',a", ["", "a"]),
        ("x='1',1", ["1", 1]),
        ("x='true',true", ["true", True]),
        ("x='null',null", ["null", None]),
        (r"x=a\,b,c", ["a,b", "c"]),
        ("x=a:b,c", ["a:b", "c"]),
        ("x=10:30,b", ["10:30", "b"]),
        ("x=/data/a-b_c.png,*", ["/data/a-b_c.png", "*"]),
        ("x='ä','ö ß'", ["ä", "ö ß"]),
        ("x=[1,2],[3]", [[1, 2], [3]]),
        ("x=[],[a,'b,c']", [[], ["a", "b,c"]]),
        ("x={a:1},{a:2,b:[c]}", [{"a": 1}, {"a": 2, "b": ["c"]}]),
        ("x=${y},1", ["${y}", 1]),
        ("x=sort(3,1,2)", [1, 2, 3]),
        ("x=sort(3,1,2,reverse=true)", [3, 2, 1]),
        ("+x=1,2", [1, 2]),
        ("++x=1,2", [1, 2]),
        ("model=small,large", ["small", "large"]),
        ("model@other=small,large", ["small", "large"]),
        ("model=glob(*)", ["huge", "large", "small"]),
        ("model=glob(*,exclude=h*)", ["large", "small"]),
        ("model=glob([s*,h*])", ["huge", "small"]),
        ("x=range(1,4)", [1, 2, 3]),
        ("x=range(5,0,-2)", [5, 3, 1]),
        ("x=range(0,0.3,0.1)", [0.0, 0.1, 0.2]),
        ("x=range(1,10,2.5)", [1.0, 3.5, 6.0, 8.5]),
        ("x=range(1.5,1.6,0.5)", [1.5]),
    ],
)
def test_listed_values_reach_the_application_in_their_order_as_what_was_written(loader, text, values):
    """Through the grid, the overrides of its points, and Hydra's reading of them."""
    key = text.partition("=")[0]
    overrides = [override_text(key, point[key]) for point in parse(loader, text).grid()]
    assert all(override.startswith(f"{key}=") for override in overrides)
    read = [OverridesParser.create().parse_override(override).value() for override in overrides]
    assert [(type(value), value) for value in read] == [(type(value), value) for value in values]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "x=1"),
        (1.0, "x=1.0"),
        (1e-7, "x=1e-07"),
        (0.1 + 0.2, "x=0.30000000000000004"),
        (-2.5e300, "x=-2.5e+300"),
        (True, "x=true"),
        (None, "x=null"),
        ("small", "x=small"),
    ],
)
def test_suggested_value_is_read_by_hydra_as_the_same_value(value, text):
    assert override_text("x", value) == text
    read = OverridesParser.create().parse_override(text).value()
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize("text", ["x=shuffle(range(1,200))", f"x=shuffle({','.join(str(i) for i in range(1, 200))})"])
def test_shuffled_values_are_tried_in_another_order(loader, text):
    tried = [point["x"] for point in parse(loader, text).grid()]
    assert tried != sorted(tried)
    assert sorted(tried) == list(range(1, 200))


@pytest.mark.parametrize("text", ["x=shuffle(range(1,200))", f"x=shuffle({','.join(str(i) for i in range(1, 200))})"])
def test_shuffled_values_are_the_same_space_each_time_so_that_the_study_can_be_continued(loader, text):
    assert parse_one(loader, text) == parse_one(loader, text)


def test_values_that_read_alike_are_listed_once_and_true_is_not_1(loader):
    space = parse(loader, "x=1,true,1,true")
    assert [point["x"] for point in space.grid()] == [1, True]
    assert [type(point["x"]) for point in space.grid()] == [int, bool]
    assert space.num_points == 2


def test_grid_varies_the_last_key_fastest(loader):
    space = parse(loader, "x=2,1", "y=range(0,3)", "z=5")
    assert list(space.grid()) == [{"x": x, "y": y} for x in (2, 1) for y in (0, 1, 2)]
    assert (space.num_points, space.fixed) == (6, ["z=5"])


def test_number_of_points_of_an_interval_is_unknown_and_of_whole_numbers_known(loader):
    assert parse(loader, "x=interval(0,1)", "y=1,2").num_points is None
    assert parse(loader, "x=int(interval(3,5))", "y=1,2").num_points == 6
    assert [point["x"] for point in parse(loader, "x=int(interval(3,5))").grid()] == [3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "is_preset_chosen", "searched", "fixed"),
    [
        ((), False, {"x": [1, 2], "y": [3, 4]}, ["z=5"]),
        (("x=7,8",), False, {"x": [7, 8]}, ["z=5"]),
        (("w=7,8",), False, {"w": [7, 8]}, ["z=5"]),
        (("x=7",), False, {"y": [3, 4]}, ["x=7", "z=5"]),
        (("z=6",), False, {"x": [1, 2], "y": [3, 4]}, ["z=6"]),
        (("z=6,7",), False, {"z": [6, 7]}, []),
        (("+x=7",), False, {"y": [3, 4]}, ["+x=7", "z=5"]),
        (("w=7,8", "v=1"), False, {"w": [7, 8]}, ["v=1", "z=5"]),
        (("w=7,8",), True, {"x": [1, 2], "y": [3, 4], "w": [7, 8]}, ["z=5"]),
        (("x=7,8",), True, {"x": [7, 8], "y": [3, 4]}, ["z=5"]),
        (("x=7", "w=8,9"), True, {"y": [3, 4], "w": [8, 9]}, ["x=7", "z=5"]),
    ],
)
def test_what_is_named_is_what_is_searched(loader, arguments, is_preset_chosen, searched, fixed):
    params = {"x": "1,2", "y": "choice(3,4)", "z": 5}
    space = parse(loader, *arguments, params=params, is_preset_chosen=is_preset_chosen)
    assert {key: list(each.choices) for key, each in space.distributions.items()} == searched
    assert sorted(space.fixed) == sorted(fixed)
    assert space.is_named == any("," in argument for argument in arguments)


@pytest.mark.parametrize(
    ("value", "text"), [(5, "z=5"), (1e-5, "z=1e-05"), (True, "z=True"), (None, "z=null"), ([1, "a"], "z=[1,a]")]
)
def test_plain_value_of_the_params_is_fixed(loader, value, text):
    assert parse(loader, "x=1,2", params={"z": value}).fixed == [text]


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("x=interval(0,1)", 0.5, 0.5),
        ("x=interval(0,1)", 1, 1.0),
        ("x=int(interval(1,10))", 10, 10),
        ("x=int(interval(1,10))", 3.0, 3),
        ("x=range(0,0.3,0.1)", 0.2, 0.2),
        ("x=range(1,10,3)", 7, 7),
        ("x=a,b", "b", "b"),
        ("x='a,b',c", "a,b", "'a,b'"),
        ("x=[1,2],[3]", [1, 2], "[1,2]"),
        ("x={a:1},{a:2}", {"a": 2}, "{a:2}"),
        ("x=true,1", True, True),
        ("x=true,1", 1, 1),
        ("x=null,1", None, None),
        ("x=1,2", 2.0, 2),
    ],
)
def test_configuration_value_is_found_in_the_distribution(loader, text, value, expected):
    found = find_value(value, parse_one(loader, text))
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=interval(0,1)", 1.1),
        ("x=interval(0,1)", -0.1),
        ("x=interval(0,1)", math.nan),
        ("x=interval(0,1)", "0.5"),
        ("x=interval(0,1)", True),
        ("x=interval(0,1)", None),
        ("x=int(interval(1,10))", 2.5),
        ("x=range(0,0.3,0.1)", 0.15),
        ("x=range(1,10,3)", 5),
        ("x=range(1,4)", 4),
        ("x=a,b", "c"),
        ("x=0,1", False),
        ("x=true,false", 1),
        ("x='1',2", 1),
    ],
)
def test_value_outside_the_distribution_is_refused_by_its_name(loader, text, value):
    with pytest.raises(ValueError, match=f"^{value}"):
        find_value(value, parse_one(loader, text))


def test_extreme_values_are_both_ends_or_every_choice(loader):
    extremes = {
        text: extreme_values(parse_one(loader, text)) for text in ("x=interval(0,1)", "x=range(1,9,3)", "x=c,a,b")
    }
    assert list(extremes.values()) == [[0.0, 1.0], [1, 7], ["c", "a", "b"]]
    assert extreme_values(parse_one(loader, "x=interval(3,3)")) == [3.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x=interval(1,0)", "the interval is empty"),
        ("x=interval(0,inf)", "finite"),
        ("x=interval(nan,1)", "finite"),
        ("x=tag(log,interval(0,1))", "an interval with a log scale must begin above 0"),
        ("x=tag(log,interval(-1,1))", "an interval with a log scale must begin above 0"),
        ("x=tag(log,int(interval(0,9)))", "an interval with a log scale must begin above 0"),
        ("x=range(5,1)", "there is no value"),
        ("x=range(3,3)", "there is no value"),
        ("x=range(0,5,0)", "step"),
        ("model=glob(none*)", "there is no value"),
        ("no_group=glob(*)", "there is no value"),
    ],
)
def test_space_that_holds_nothing_is_refused_with_what_was_written(loader, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse(loader, text)
    assert str(error.value).startswith(f"{text}: ")
    assert "\n" not in str(error.value)


def test_grid_of_an_interval_is_refused_with_its_key(loader):
    with pytest.raises(ConfigError, match=r"^y: a grid cannot have an interval.*range\("):
        list(parse(loader, "x=1,2", "y=interval(0,1)").grid())


def test_grid_of_too_many_points_is_refused_with_their_number(loader):
    with pytest.raises(ConfigError, match=r"this grid has 10,100 trials; at most 10,000 are allowed"):
        list(parse(loader, "x=range(0,101)", "y=range(0,100)").grid())
    points = list(parse(loader, "x=range(0,100)", "y=range(0,100)").grid())
    assert all(a != b for a, b in pairwise(points))
    assert len(points) == 10_000
