"""The numerics of a mixture: shares that keep all limits, and whole packs from shares. numpy only.

`minimize` is a primal-dual interior-point method with infeasible start (Boyd and Vandenberghe, Convex Optimization,
chapter 11.7) for convex problems of a few hundred variables. In: entropy and linear costs, equalities `A x = b`, limits
`G x <= h`. Out: the minimizer with the multipliers of the limits, which say which of them bind.

    minimize  c x + KL(B x || targets)   subject to  A x = b,  G x <= h,  x > 0

Raking (iterative proportional fitting) with bounds converges slowly where limits leave a cell nothing, which is where a
mixture gets interesting; Newton steps on the optimality conditions take 25 to 90 iterations there as anywhere, 30 ms
for 30 cells and 40 limits. Variables are scaled by sqrt(x), without which cells of 1e-9 ruin the linear systems.

`round_table` is controlled rounding (Cox 1987, A constructive procedure for unbiased controlled rounding, JASA 82). In:
pack shares of the cells of a source x language table, which add up to 1. Out: for a cycle of M = 65,536 slots the
integer quota of each cell, rounded up or down, such that the quotas of each source, of each language and of the whole
table are rounded up or down as well. The largest remainder method keeps only cells and total: the quotas of 12
languages can add up to a source total that is several packs off (2.7 measured on random tables of 2 to 6 sources x 5 to
12 languages; here always under 1). Slack cells make all margins whole, then fractions are shifted around cycles of
fractional cells until no cell is fractional: at most as many shifts as cells, 6 ms for 72 cells. Shares are first
rounded to 1/16 of a pack, so that the last bits of the solution do not reach the data order.

Shapes: N variables, E equalities, L limits, K entropy terms; R rows (sources), C columns (languages).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

CYCLE_SLOTS = 65_536
UNITS_PER_PACK = 16

MAX_ITERATIONS = 200
MAX_DUALITY_GAP = 1e-10
"""Mean of slack x multiplier at which the iterations stop."""
MAX_RESIDUAL = 1e-8
CENTERING = 0.2
"""Part of the duality gap that the next step aims at."""
MAX_STEP_TO_BOUNDARY = 0.7
"""Part of the way to the nearest bound that one step may take."""


@dataclass(frozen=True)
class ShareProblem:
    """Costs and constraints of the formula at the top of this file."""

    cost_N: Vector
    terms_KN: Matrix
    targets_K: Vector
    equal_EN: Matrix
    equal_E: Vector
    limits_LN: Matrix
    limits_L: Vector

    def gradient(self, x_N: Vector) -> Vector:
        terms_K = self.terms_KN @ x_N
        return self.cost_N + self.terms_KN.T @ np.log(terms_K / self.targets_K)

    def hessian(self, x_N: Vector) -> Matrix:
        return self.terms_KN.T @ (self.terms_KN / (self.terms_KN @ x_N)[:, None])


@dataclass
class Point:
    """Variables, slacks of the limits, multipliers of equalities and limits; a step has the same fields."""

    x_N: Vector
    slack_L: Vector
    equal_E: Vector
    limit_L: Vector

    def moved(self, step: Point, size: float) -> Point:
        return Point(
            self.x_N + size * step.x_N,
            self.slack_L + size * step.slack_L,
            self.equal_E + size * step.equal_E,
            self.limit_L + size * step.limit_L,
        )


def minimize(problem: ShareProblem, start_N: Vector) -> Point:
    """The minimizer. If limits contradict each other the result does not keep them, which the caller checks."""
    slack_L = np.maximum(problem.limits_L - problem.limits_LN @ start_N, 1e-4)
    point = Point(start_N, slack_L, np.zeros(len(problem.equal_E)), 1e-2 / slack_L)
    for _ in range(MAX_ITERATIONS):
        gap = float(point.slack_L @ point.limit_L) / max(len(point.slack_L), 1)
        residuals = _residuals(problem, point)
        if gap < MAX_DUALITY_GAP and max(float(np.abs(r).max(initial=0.0)) for r in residuals) < MAX_RESIDUAL:
            break
        step = _newton_step(problem, point, residuals, max(CENTERING * gap, MAX_DUALITY_GAP / 10))
        point = point.moved(step, _largest_step(point, step))
    return point


def _residuals(problem: ShareProblem, point: Point) -> tuple[Vector, Vector, Vector]:
    """Residuals of optimality (scaled by sqrt(x), so that empty cells do not count), equalities and limits."""
    gradient_N = problem.gradient(point.x_N)
    gradient_N += problem.equal_EN.T @ point.equal_E + problem.limits_LN.T @ point.limit_L
    scale_N = np.sqrt(point.x_N)
    equal_E = problem.equal_EN @ point.x_N - problem.equal_E
    limit_L = problem.limits_LN @ point.x_N + point.slack_L - problem.limits_L
    return scale_N * gradient_N, equal_E, limit_L


def _newton_step(problem: ShareProblem, point: Point, residuals: tuple[Vector, Vector, Vector], gap: float) -> Point:
    """One Newton step towards `gradient = 0`, `slack * multiplier = gap` and the constraints."""
    gradient_N, equal_E, limit_L = residuals
    scale_N, ratio_L = np.sqrt(point.x_N), point.limit_L / point.slack_L
    limits_LN, equal_EN = problem.limits_LN * scale_N, problem.equal_EN * scale_N
    curve_NN = scale_N[:, None] * problem.hessian(point.x_N) * scale_N
    curve_NN += limits_LN.T @ (ratio_L[:, None] * limits_LN)
    force_L = ratio_L * limit_L - point.limit_L + gap / point.slack_L
    x_N, step_equal_E = _solve(curve_NN, equal_EN, -gradient_N - limits_LN.T @ force_L, -equal_E)
    slack_L = -limit_L - limits_LN @ x_N
    step_limit_L = gap / point.slack_L - point.limit_L - ratio_L * slack_L
    return Point(scale_N * x_N, slack_L, step_equal_E, step_limit_L)


def _solve(curve_NN: Matrix, equal_EN: Matrix, x_N: Vector, equal_E: Vector) -> tuple[Vector, Vector]:
    """The bordered linear system, scaled by its diagonal."""
    num = len(x_N)
    matrix = np.block([[curve_NN, equal_EN.T], [equal_EN, np.zeros((len(equal_E), len(equal_E)))]])
    scale = np.r_[1 / np.sqrt(np.diag(curve_NN)), np.ones(len(equal_E))]
    solution = scale * np.linalg.lstsq(scale[:, None] * matrix * scale, scale * np.r_[x_N, equal_E], rcond=1e-15)[0]
    return solution[:num], solution[num:]


def _largest_step(point: Point, step: Point) -> float:
    """The longest step that keeps variables, slacks and multipliers positive."""
    value = np.r_[point.x_N, point.slack_L, point.limit_L]
    change = np.r_[step.x_N, step.slack_L, step.limit_L]
    shrinking = change < 0
    return min(1.0, MAX_STEP_TO_BOUNDARY * float((-value[shrinking] / change[shrinking]).min(initial=np.inf)))


def round_shares_to_units(share_RC: NDArray[np.float64]) -> NDArray[np.int64]:
    """Shares as units of 1/16 pack that add up to a whole cycle, by largest remainder."""
    scaled_RC = share_RC * (CYCLE_SLOTS * UNITS_PER_PACK)
    units_RC = np.floor(scaled_RC).astype(np.int64)
    missing = CYCLE_SLOTS * UNITS_PER_PACK - int(units_RC.sum())
    assert 0 <= missing <= share_RC.size, f"shares add up to {share_RC.sum()}, expected 1"
    units_RC.flat[np.argsort((units_RC - scaled_RC).flat, kind="stable")[:missing]] += 1
    return units_RC


def round_table(units_RC: NDArray[np.int64]) -> NDArray[np.int64]:
    """Quotas [R, C] in packs from units of 1/16 pack: cells, rows, columns and total each rounded up or down."""
    table = _add_slack(units_RC)
    while (table % UNITS_PER_PACK).any():
        cells = _find_fractional_cycle(table % UNITS_PER_PACK != 0)
        up, down = tuple(np.array(cells[0::2]).T), tuple(np.array(cells[1::2]).T)
        shift = min((-table[up] % UNITS_PER_PACK).min(), (table[down] % UNITS_PER_PACK).min())
        table[up] += shift
        table[down] -= shift
    return table[:-1, :-1] // UNITS_PER_PACK


def _add_slack(units_RC: NDArray[np.int64]) -> NDArray[np.int64]:
    """With one more row and column of slack, so that every row and column adds up to whole packs."""
    table = np.pad(units_RC, ((0, 1), (0, 1)))
    table[:-1, -1] = -table[:-1].sum(axis=1) % UNITS_PER_PACK
    table[-1] = -table[:-1].sum(axis=0) % UNITS_PER_PACK
    assert table[-1].sum() % UNITS_PER_PACK == 0, "the total of the table is not whole packs"
    return table


def _find_fractional_cycle(fractional_RC: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Cells of a closed path that alternates between rows and columns.

    A row or column with one fractional cell has two, since it adds up to whole packs: the path never ends.
    """
    num_rows = fractional_RC.shape[0]
    path = [int(np.argmax(fractional_RC.any(axis=1)))]  # nodes: rows, then columns after them
    while True:
        node = path[-1]
        line = fractional_RC[node] if node < num_rows else fractional_RC[:, node - num_rows]
        offset = num_rows if node < num_rows else 0
        last = path[-2] if len(path) > 1 else -1
        step = next(int(n) + offset for n in np.flatnonzero(line) if n + offset != last)
        if step in path:
            loop = [*path[path.index(step) :], step]
            return [(min(a, b), max(a, b) - num_rows) for a, b in pairwise(loop)]
        path.append(step)
