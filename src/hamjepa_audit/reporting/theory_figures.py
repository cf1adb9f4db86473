"""The figures of the theory: the toy experiment, and properties of leapfrog and Euler maps."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from hamjepa_audit.params.claims import ToyTransport
from hamjepa_audit.reporting.style import COLOURS, legend, panels, save_all, styled
from hamjepa_audit.reporting.theory_tables import setup_title

TITLES = {
    "leapfrog": "Leapfrog",
    "symplectic_euler": "Symplectic Euler",
    "explicit_euler": "Explicit Euler",
}
"""The titles of the integrators, in the order of the panels."""

COLOUR = {
    "leapfrog": COLOURS[0],
    "explicit_euler": COLOURS[1],
    "symplectic_euler": COLOURS[2],
    "euler": COLOURS[1],
    "reference": COLOURS[6],
    "start": COLOURS[5],
}
MARKERS = {"leapfrog": "o", "symplectic_euler": "s", "explicit_euler": "^"}
PHASE_PLANE = ("Position q", "Momentum p")
DRIFT_RANGE = (1e-4, 1e1)
"""The colour range of the energy drift, common to all integrators."""


def theory_figures(
    numbers: Mapping[str, pd.DataFrame], claim: ToyTransport, folder: Path
) -> list[Path]:
    """Writes the five figures of the frames of `theory_schemas.NUMBERS`, as NAME.png and .pdf."""
    figures = {
        "toy_transport": toy_transport(
            numbers["toy_transport_states"], numbers["toy_transport_directions"], claim
        ),
        "energy_drift": energy_drift(numbers["energy_drift"]),
        "area_preservation": area_preservation(numbers["area_preservation"]),
        "reversibility": reversibility(numbers["reversibility"]),
        "symplecticity_defect": symplecticity_defect(numbers["symplecticity_defect"]),
    }
    return save_all(figures, folder)


@styled
def toy_transport(states: pd.DataFrame, directions: pd.DataFrame, claim: ToyTransport) -> Figure:
    """Draws where leapfrog and Euler take a cloud in the nearest set-up, and W1 to the reference.

    The paper's mean distances are dashed.
    """
    figure, axes = panels(3)
    for axis, model, title in zip(axes, ("leapfrog", "euler"), ("Leapfrog", "Euler"), strict=False):
        for name, label, size in (
            ("start", "Start", 4),
            (model, "Leapfrog" if model == "leapfrog" else "Explicit Euler", 7),
            ("reference", "Reference", 2),
        ):
            cloud = states[states["states"] == name]
            axis.scatter(
                cloud["q"], cloud["p"], s=size, color=COLOUR[name], label=label, linewidths=0
            )
        axis.set_title(f"{title}, dt = {claim.models.dt}, t = {claim.horizon}")
        axis.set_aspect("equal", adjustable="datalim")
        _phase_plane(axis)
    for model, stated in claim.w1_over_directions.items():
        line = directions[directions["model"] == model]
        colour = COLOUR[model]
        axes[2].plot(np.degrees(line["angle"]), line["distance"], color=colour, linewidth=1.8)
        axes[2].axhline(float(stated.mean), color=colour, linestyle="--", linewidth=1.2)
        axes[2].axhline(float(stated.max), color=colour, linestyle=":", linewidth=1.2)
    axes[2].set_yscale("log")
    axes[2].set_title("Wasserstein-1 to the reference")
    axes[2].set_xlabel("Direction (degrees from q)")
    axes[2].set_xticks([0, 45, 90, 135, 180])
    legend(
        figure,
        f"Nearest of the set-ups tried: {setup_title(states.iloc[0])}.\n"
        "Right: our distances by direction; dashed and dotted: the paper's mean and largest",
    )
    for handle in figure.legends[0].legend_handles:
        handle.set_sizes([30])  # type: ignore[union-attr]
    return figure


@styled
def energy_drift(drift: pd.DataFrame) -> Figure:
    """Draws the largest energy error of trajectories from states of the pendulum's phase plane."""
    figure, axes = panels(len(TITLES), sharex=True, sharey=True)
    for axis, (name, title) in zip(axes, TITLES.items(), strict=True):
        grid = drift[drift["integrator"] == name].pivot(index="p", columns="q", values="drift")
        image = axis.pcolormesh(
            grid.columns,
            grid.index,
            grid.clip(*DRIFT_RANGE),
            norm=LogNorm(*DRIFT_RANGE),
            cmap="viridis",
            shading="nearest",
            rasterized=True,
        )
        axis.set_title(title)
        axis.grid(visible=False)
        _phase_plane(axis)
    first = drift.iloc[0]
    figure.colorbar(
        image,
        ax=axes,
        label=f"Largest |H - H at the start|\n"
        f"in {first['steps']} steps, dt = {first['step_size']:g}",
    )
    return figure


@styled
def area_preservation(area: pd.DataFrame) -> Figure:
    """Draws a disc of the pendulum's phase plane as each integrator transports it, and its area."""
    figure, axes = panels(len(TITLES), sharex=True, sharey=True)
    times = sorted(set(area["steps"]))
    shades = [0.25 + 0.75 * place / max(1, len(times) - 1) for place in range(len(times))]
    for axis, (name, title) in zip(axes, TITLES.items(), strict=True):
        for steps, shade in zip(times, shades, strict=True):
            outline = area[(area["integrator"] == name) & (area["steps"] == steps)]
            axis.fill(outline["q"], outline["p"], color=COLOUR[name], alpha=0.15, linewidth=0)
            closed = pd.concat([outline, outline.head(1)])
            axis.plot(closed["q"], closed["p"], color=COLOUR[name], alpha=shade, linewidth=1.3)
            axis.annotate(
                f"{steps}\n{outline['area_ratio'].iloc[0]:.3f}",
                (outline["q"].mean(), outline["p"].mean()),
                ha="center",
                va="center",
                fontsize=7.5,
            )
        axis.set_title(title)
        axis.set_aspect("equal")
        _phase_plane(axis)
    figure.supxlabel(
        f"In each outline: steps (dt = {area['step_size'].iloc[0]:g}), area relative to the disc's",
        fontsize=9.5,
    )
    return figure


@styled
def reversibility(reversal: pd.DataFrame) -> Figure:
    """Draws the distance of states from their start, after steps forward and back, by steps."""
    figure, (axis,) = panels(1)
    for name, title in TITLES.items():
        line = reversal[reversal["integrator"] == name]
        axis.loglog(
            line["steps"], line["error"], color=COLOUR[name], marker=MARKERS[name], label=title
        )
    axis.set_xlabel("Steps forward, and as many back")
    axis.set_ylabel("Largest distance from the start")
    legend(figure, f"Pendulum, dt = {reversal['step_size'].iloc[0]:g} forward, then -dt")
    return figure


@styled
def symplecticity_defect(defect: pd.DataFrame) -> Figure:
    """Draws the symplecticity defect of a learned potential's map against the step size."""
    figure, (axis,) = panels(1)
    for (name, precision), line in defect.groupby(["integrator", "precision"], sort=False):
        single = precision == "float32"
        axis.loglog(
            line["step_size"],
            line["defect"],
            color=COLOUR[str(name)],
            marker=MARKERS[str(name)],
            # Below the other symplectic one's line, and wider, so that both are seen.
            linewidth=3.0 if name == "leapfrog" and not single else 1.5,
            linestyle="--" if single else "-",
            label=TITLES[str(name)] + (" (float32)" if single else ""),
        )
    axis.set_xlabel("Step size dt")
    axis.set_ylabel("||A'JA - J|| / ||J||")
    legend(figure, f"A random learned potential, {defect['steps'].iloc[0]} steps", columns=2)
    return figure


def _phase_plane(axis: Axes) -> None:
    axis.set_xlabel(PHASE_PLANE[0])
    if axis.get_subplotspec().colspan.start == 0:  # type: ignore[union-attr]
        axis.set_ylabel(PHASE_PLANE[1])
