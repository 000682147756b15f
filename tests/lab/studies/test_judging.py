"""Exact tests, against values that can be counted by hand."""

from math import comb

import pytest

from flossing_lab.studies.judging import Count, larger, more_often


@pytest.mark.parametrize(
    ("successes", "more", "agrees"),
    [(10, 1 / 1024, True), (9, 11 / 1024, True), (8, 56 / 1024, None), (1, 1023 / 1024, False)],
)
def test_most_networks(successes, more, agrees):
    test = Count(successes, 10).most
    assert test.more == pytest.approx(more)
    assert test.agrees is agrees


@pytest.mark.parametrize(("successes", "interval"), [(10, (0.6915, 1.0)), (0, (0.0, 0.3085))])
def test_intervals_are_those_of_clopper_and_pearson(successes, interval):
    # All of ten: the lower end p has p^10 = 0.025.
    assert Count(successes, 10).interval == pytest.approx(interval, abs=1e-4)
    assert str(Count(10, 10)) == "10 of 10 (69 to 100 %)"


def test_one_pair_is_fishers_test():
    test = more_often([(Count(4, 5), Count(1, 5))])
    # Of the 252 ways to choose who of ten succeeds, those with four or five in the first group.
    assert test.more == pytest.approx((comb(5, 4) * comb(5, 1) + 1) / comb(10, 5))
    assert test.less == pytest.approx(1 - 1 / comb(10, 5))
    assert test.agrees is None


def test_three_against_three_can_decide():
    assert more_often([(Count(3, 3), Count(0, 3))]).agrees is True
    assert more_often([(Count(0, 3), Count(3, 3))]).agrees is False
    assert more_often([(Count(3, 3), Count(1, 3))]).agrees is None


def test_delays_are_taken_one_by_one():
    pair = (Count(2, 2), Count(0, 2))
    assert more_often([pair]).more == pytest.approx(1 / 6)
    assert more_often([pair, pair]).more == pytest.approx(1 / 36)
    # Where all or none succeed, nothing can be learned.
    trivial = [(Count(3, 3), Count(3, 3)), (Count(0, 3), Count(0, 9))]
    assert more_often([pair, *trivial]).more == pytest.approx(1 / 6)
    assert more_often(trivial).agrees is None
    assert more_often([]).agrees is None


def test_larger_values():
    assert larger([4.0, 5.0, 6.0], [1.0, 2.0, 3.0]).more == pytest.approx(1 / 20)
    assert larger([4.0, 5.0, 6.0], [0.0, 0.0, 0.0]).agrees is True
    assert larger([1.0, 2.0], [3.0, 4.0]).agrees is None
    assert larger([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]).agrees is False
