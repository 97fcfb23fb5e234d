import pytest
from variance import deviation, mean, scores, variance


def test_mean() -> None:
    assert mean([1, 2, 3, 4]) == 2.5


def test_mean_of_one_value() -> None:
    assert mean([7]) == 7


def test_equal_values_do_not_vary() -> None:
    assert variance([3, 3, 3]) == 0


def test_variance() -> None:
    assert variance([2, 4, 4, 4, 5, 5, 7, 9]) == 4


def test_variance_around_zero() -> None:
    assert variance([-1, 1]) == 1


def test_variance_does_not_depend_on_where_zero_is() -> None:
    assert variance([101, 104, 107]) == pytest.approx(variance([1, 4, 7]))


def test_deviation() -> None:
    assert deviation([2, 4, 4, 4, 5, 5, 7, 9]) == 2


def test_scores() -> None:
    assert scores([1, 3]) == [-1, 1]
