"""companion/validate.py: what passes, what is refused, and the words of the refusal."""

import numpy as np
import pytest

from companion import validate


@pytest.mark.parametrize("value", [1, 0.5, np.float64(2), np.int64(3), np.array(0.25)])
def test_positive_numbers_pass_as_floats(value):
    for check in (validate.number, validate.positive, validate.non_negative):
        assert check("x", value) == float(value)
        assert type(check("x", value)) is float


def test_signs_are_told_apart():
    assert validate.non_negative("x", 0) == 0.0
    assert validate.number("x", -1) == -1.0


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (validate.positive, 0, "x must be positive, got 0"),
        (validate.positive, -2.5, "x must be positive, got -2.5"),
        (validate.non_negative, -1e-9, "x must not be negative, got -1e-09"),
        (validate.number, np.nan, "x must be finite, got nan"),
        (validate.number, -np.inf, "x must be finite, got -inf"),
        (validate.number, "1", "x must be a number, got '1'"),
        (validate.number, b"1", "x must be a number, got b'1'"),
        (validate.number, None, "x must be a number, got None"),
        (validate.number, [1, 2], r"x must be a number, got \[1, 2\]"),
        (validate.number, 1j, "x must be a number, got 1j"),
        (validate.count, 0, "x must be a whole number of at least 1, got 0"),
        (validate.count, 1.0, "x must be a whole number of at least 1, got 1.0"),
        (validate.count, True, "x must be a whole number of at least 1, got True"),
        (validate.count, "3", "x must be a whole number of at least 1, got '3'"),
        (validate.finite, [1, np.inf], "x must be finite, got inf"),
        (validate.finite, "abc", "x must hold real numbers, got 'abc'"),
        (validate.finite, [1j], r"x must hold real numbers, got \[1j\]"),
        (validate.increasing_grid, [0, 1, 2], r"x must be one-dimensional with at least 5 points, got shape \(3,\)"),
        (validate.increasing_grid, np.eye(5), r"x must be one-dimensional .* got shape \(5, 5\)"),
        (validate.increasing_grid, [0, 1, 3, 2, 4], "x must be increasing, got 3 followed by 2"),
        (validate.increasing_grid, [0, 1, 1, 2, 4], "x must be increasing, got 1 followed by 1"),
        (validate.increasing_grid, [0, 1, 2, 3, np.nan], "x must be finite, got nan"),
        (validate.generator, 7, "x must be a numpy.random.Generator, .* got 7"),
    ],
)
def test_refusals_name_the_argument_the_value_and_what_is_allowed(check, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check("x", value)


def test_count_takes_numpy_integers():
    assert validate.count("x", np.int32(4)) == 4


def test_generator_passes_through():
    generator = np.random.default_rng(0)
    assert validate.generator("x", generator) is generator


@pytest.mark.parametrize(
    ("matrix", "definite", "message"),
    [
        ([1.0, 2.0], False, r"m must be a square matrix, got shape \(2,\)"),
        (np.ones((2, 3)), False, r"m must be a square matrix, got shape \(2, 3\)"),
        (np.zeros((0, 0)), False, r"m must be a square matrix, got shape \(0, 0\)"),
        ([[1, 2], [0, 1]], False, r"m must be symmetric, got \[\[1.0, 2.0\], \[0.0, 1.0\]\]"),
        ([[1, np.nan], [np.nan, 1]], False, "m must be finite, got nan"),
        ([[1, 1], [1, 1]], True, "m must be positive definite, its smallest eigenvalue is "),
        ([[0, 0], [0, 0]], True, "m must be positive definite, its smallest eigenvalue is 0"),
        ([[1, 2], [2, 1]], False, "m must be positive semidefinite, its smallest eigenvalue is -1"),
    ],
)
def test_bad_matrices_are_refused(matrix, definite, message):
    with pytest.raises(ValueError, match=message):
        validate.symmetric_matrix("m", matrix, definite=definite)


def test_singular_matrix_may_be_semidefinite_and_scale_does_not_matter():
    singular = np.array([[1.0, 1.0], [1.0, 1.0]])
    for scale in (1e-200, 1.0, 1e200):
        matrix = validate.symmetric_matrix("m", scale * singular, definite=False)
        np.testing.assert_array_equal(matrix, scale * singular)
        validate.symmetric_matrix("m", scale * np.eye(2), definite=True)
