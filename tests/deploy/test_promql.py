"""What a query asks for is seen, however it is written."""

import pytest

from deploy.promql import NotUnderstood, Selector, parse


def named(text: str) -> list[str]:
    return [selector.name for selector in parse(text).selectors]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("up", ["up"]),
        ("up == 0", ["up"]),
        ("rate(a_total[5m])", ["a_total"]),
        ("sum by (x) (a) / on (x) group_left (y) b", ["a", "b"]),
        ("sum(a) by (x)", ["a"]),
        ("quantile_over_time(0.9, count by (n) (up)[1d:5m])", ["up"]),
        ("a offset 10m and b unless c or d", ["a", "b", "c", "d"]),
        ("level:a:sum > 2 * 2^30 # of which c is none", ["level:a:sum"]),
        ('a{b="c(d) and e", f!~"g|h"} > bool 1e3', ["a"]),
        ("time() - a > 1.5", ["a"]),
    ],
)
def test_metrics_are_told_from_everything_else(text: str, names: list[str]) -> None:
    assert named(text) == names


def test_what_is_asked_of_labels_is_seen() -> None:
    query = parse("""sum without (q) (a{job=~"x|y", l!="1"}) + on (m, n) group_right () b{job='z'}""")
    assert query.selectors == [
        Selector("a", {"job": ("=~", "x|y"), "l": ("!=", "1")}),
        Selector("b", {"job": ("=", "z")}),
    ]
    assert [selector.job for selector in query.selectors] == ["x|y", "z"]
    assert query.labels == {"q", "m", "n"}


@pytest.mark.parametrize("text", ['{job="a"}', 'a{job="b"', "a{job}", "sum by x (a)"])
def test_what_is_not_understood_is_not_taken_for_nothing(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse(text)
