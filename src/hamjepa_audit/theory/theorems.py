"""Every theorem that the paper rests on, with its statement, formula, check and instances."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from hamjepa_audit.models.integrators import leapfrog
from hamjepa_audit.params.theory import TheoryParams
from hamjepa_audit.theory import (
    covariance,
    entropy,
    gibbs,
    leapfrog as maps,
    spectral_bounds,
    symplectic,
)
from hamjepa_audit.theory.checks import Check
from hamjepa_audit.theory.instances import (
    Generator,
    geometries,
    mechanical_system,
    mechanical_systems,
    potential_params,
    spectra,
)

ABSTRACT = "paper, abstract and theory"
THEORY = "paper, theory"


def all_checks(params: TheoryParams) -> list[Check[Any, Any]]:
    """Every theorem, in the protocol's order."""
    return [
        *covariance_checks(params),
        *entropy_checks(params),
        *gibbs_checks(params),
        *leapfrog_checks(params),
        *spectral_checks(params),
    ]


def covariance_checks(params: TheoryParams) -> list[Check[Any, Any]]:
    """Minimax covariance, price of isotropy, cone."""

    def every(generator: Generator) -> Iterator[Any]:
        return geometries(params, generator)

    def of_dimensions(dimensions: tuple[int, ...]) -> Callable[[Generator], Iterator[Any]]:
        return lambda generator: geometries(params, generator, dimensions)

    return [
        Check(
            "worst_task",
            "V(S) = max of w'Sw over w'H^-1 w <= 1 is lmax(H^1/2 S H^1/2)",
            THEORY,
            "relative, against the maximum found by ascent and against that eigenvalue",
            covariance.worst_task_value,
            covariance.worst_task_error,
            every,
        ),
        Check(
            "minimax_value",
            "S* = (c/d) H^-1 meets the budget tr(HS) = c, and V(S*) = c/d",
            ABSTRACT,
            "relative",
            covariance.optimal_covariance,
            covariance.minimax_value_error,
            every,
        ),
        Check(
            "minimax_optimiser",
            "S* = (c/d) H^-1 minimises V on the budget",
            ABSTRACT,
            "relative, of V and S, against the minimum found by descent",
            covariance.optimal_covariance,
            covariance.minimax_optimiser_error(params.optimiser.norm_order),
            of_dimensions(params.optimiser.dimensions),
        ),
        Check(
            "price_of_isotropy",
            "Isotropy costs the factor d lmax(H) / tr(H), which is between 1 and d",
            ABSTRACT,
            "relative",
            covariance.price_of_isotropy,
            covariance.price_error,
            every,
        ),
        Check(
            "price_range",
            "That factor is 1 for H = I and tends to d as H tends to rank one",
            THEORY,
            "relative, at both ends",
            covariance.price_of_isotropy,
            covariance.price_range_error(params.spectra.limit),
            lambda _: iter(params.geometries.dimensions),
        ),
        Check(
            "price_by_sampling",
            "On the worst of many random tasks, isotropy costs that factor",
            THEORY,
            "relative",
            covariance.price_of_isotropy,
            covariance.price_sampling_error(params.tasks.samples),
            of_dimensions(params.tasks.dimensions),
        ),
        Check(
            "no_canonical_shape",
            "For every covariance, some geometries make its shape cost nearly the factor d",
            "paper, abstract",
            "relative, near the limit of rank one",
            covariance.worst_geometry,
            covariance.no_canonical_shape_error(params.geometries.rank_one_limit),
            every,
        ),
        Check(
            "cone",
            "Every positive definite S is S*(H) for a positive definite H, (c/d) S^-1",
            THEORY,
            "relative to S",
            covariance.geometry_of,
            covariance.cone_error,
            every,
        ),
    ]


def entropy_checks(params: TheoryParams) -> list[Check[Any, Any]]:
    """The law of maximum entropy."""
    return [
        Check(
            "maximum_entropy_optimiser",
            "(c/d) H^-1 has the largest log det on the budget",
            ABSTRACT,
            "relative, of S, against the maximum found by ascent",
            covariance.optimal_covariance,
            entropy.maximum_entropy_optimiser_error,
            lambda generator: geometries(params, generator, params.optimiser.dimensions),
        ),
        Check(
            "maximum_entropy_competitors",
            "No distribution on the budget has more entropy than N(0, (c/d) H^-1)",
            ABSTRACT,
            "excess of other normal and of non-normal distributions, in nats per dimension; "
            "relative error of the budget",
            covariance.optimal_covariance,
            entropy.maximum_entropy_competitor_error,
            lambda generator: geometries(params, generator),
        ),
    ]


def gibbs_checks(params: TheoryParams) -> list[Check[Any, Any]]:
    """The Gibbs law's marginal."""
    return [
        Check(
            "gibbs_marginal",
            "S* is the covariance of q under the density proportional to exp(-(d/c)(q'Hq + p'p)/2)",
            THEORY,
            "in units of the expected sampling error",
            covariance.optimal_covariance,
            gibbs.gibbs_marginal_error(params.gibbs.coordinates),
            lambda generator: geometries(params, generator),
        )
    ]


def leapfrog_checks(params: TheoryParams) -> list[Check[Any, Any]]:
    """The leapfrog map of the project's potential."""
    chosen = params.maps
    size, steps = chosen.step_size, chosen.steps

    def one(generator: Generator) -> Iterator[Any]:
        return mechanical_systems(params, 1, generator)

    def several(generator: Generator) -> Iterator[Any]:
        return mechanical_systems(params, params.energy_order.trajectories, generator)

    def long(generator: Generator) -> Iterator[Any]:
        run = params.long_run
        for dimension, scale in itertools.product(run.dimensions, run.residual_scales):
            potential = potential_params(params, scale, run.hidden_width, run.hidden_layers)
            yield mechanical_system(dimension, potential, run.trajectories, generator)

    return [
        Check(
            "symplecticity",
            "The leapfrog map's Jacobian A satisfies A'JA = J",
            THEORY,
            "Frobenius norm, relative to J's",
            leapfrog,
            maps.jacobian_error(symplectic.symplecticity_defect, size, steps),
            one,
        ),
        Check(
            "volume",
            "det A = 1",
            THEORY,
            "log |det A|; infinite where det A is not positive",
            leapfrog,
            maps.jacobian_error(symplectic.volume_defect, size, steps),
            one,
        ),
        Check(
            "reciprocal_singular_values",
            "A's singular values come in pairs (s, 1/s)",
            THEORY,
            "logarithm of a pair's product",
            leapfrog,
            maps.jacobian_error(symplectic.reciprocity_defect, size, steps),
            one,
        ),
        Check(
            "exact_inverse",
            "The map with -dt is the exact inverse",
            THEORY,
            "relative to the largest coordinate",
            leapfrog,
            maps.inverse_error(size, steps),
            several,
        ),
        Check(
            "energy_order",
            "The energy error is O(dt^2)",
            THEORY,
            "difference of the fitted exponent from 2",
            leapfrog,
            maps.energy_order_error(params.energy_order),
            several,
        ),
        Check(
            "energy_bounded",
            f"The energy error stays bounded over {params.long_run.steps:,} steps",
            THEORY,
            f"root mean square of {params.long_run.trajectories} trajectories: last tenth of steps "
            f"/ first",
            leapfrog,
            maps.energy_bounded_error(params.long_run),
            long,
        ),
    ]


def spectral_checks(params: TheoryParams) -> list[Check[Any, Any]]:
    """The bounds on extreme eigenvalues, each with a check of when it is tight."""
    chosen = params.spectra

    def every(generator: Generator) -> Iterator[Any]:
        return spectra(params, generator)

    return [
        Check(
            "trace_bound",
            "If log det >= k tau and trace <= m, then lmin >= exp(k tau) ((k-1)/m)^(k-1)",
            THEORY,
            "shortfall of log lmin below the bound",
            spectral_bounds.trace_bound,
            spectral_bounds.trace_bound_error,
            every,
        ),
        Check(
            "trace_bound_tight",
            "That bound is tight as lmin goes to 0 with the other eigenvalues equal",
            "ours",
            "gap between the logarithms",
            spectral_bounds.trace_bound,
            spectral_bounds.trace_bound_gap(chosen.limit),
            lambda _: iter(chosen.orders),
        ),
        Check(
            "participation_bound",
            "If trace = c and participation ratio >= r0, then lmax <= c / sqrt(r0)",
            THEORY,
            "relative excess over the bound",
            spectral_bounds.participation_bound,
            spectral_bounds.participation_bound_error,
            every,
        ),
        Check(
            "participation_bound_tight",
            "That bound is tight for r0 = 1, and for any r0 as k grows",
            "ours",
            f"relative gap at k = {chosen.large_order:,}",
            spectral_bounds.participation_bound,
            spectral_bounds.participation_bound_gap(chosen.large_order),
            lambda _: iter(chosen.participations),
        ),
        Check(
            "participation_logdet_bound",
            "If also log det >= k tau, then lmin >= exp(k tau) (sqrt(r0)/c)^(k-1)",
            THEORY,
            "shortfall of log lmin below the bound",
            spectral_bounds.participation_logdet_bound,
            spectral_bounds.participation_logdet_bound_error,
            every,
        ),
        Check(
            "participation_logdet_bound_tight",
            "That bound is tight for k = 2 as r0 goes to 1; for k >= 3 the bound from the trace is "
            "at least as strong",
            "ours",
            "gap between the logarithms; excess over the trace's bound",
            spectral_bounds.participation_logdet_bound,
            spectral_bounds.participation_logdet_bound_gap(chosen.limit),
            every,
        ),
    ]
