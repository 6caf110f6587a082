"""The picture of a front: accuracy against tokens, error bars both ways, the front as a step line; no display."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks.pareto import Point

Box = tuple[float, float, float, float]

# Okabe-Ito colours, and a shape for each kind: the picture reads without colour too.
STYLES: dict[str, dict[str, Any]] = {
    "base": {"color": "#000000", "marker": "s", "label": "base model"},
    "plain": {"color": "#D55E00", "marker": "D", "label": "plain GRPO"},
    "front": {"color": "#0072B2", "marker": "o", "label": "shaped, on the front"},
    "shaped": {"color": "#56B4E9", "marker": "o", "label": "shaped, dominated"},
}
WIDTH, HEIGHT, DPI = 9.0, 5.8, 200  # 900 px wide in a README, 1,800 pixels
PIXEL = DPI / 100  # one pixel of the README's width


def draw(points: Sequence[Point], on_front: Sequence[bool], path: Path, title: str, subtitle: str = "") -> None:
    """Write the PNG (or what the suffix of `path` says). Points whose accuracy or tokens are NaN are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [(p, f) for p, f in zip(points, on_front, strict=True) if _drawable(p)]
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for point, front in shown:
        _plot_point(axes, point, front)
    _plot_front(axes, [p for p, front in shown if front])
    _dress(axes, shown, title, subtitle)
    _label(figure, axes, shown)
    undated = {"CreationDate": None} if path.suffix == ".pdf" else {}  # the same points give the same bytes
    figure.savefig(path, dpi=DPI, metadata=undated)


def _drawable(point: Point) -> bool:
    return not (math.isnan(point.accuracy.value) or math.isnan(point.tokens.value))


def _style(point: Point, front: bool) -> dict[str, Any]:
    return STYLES[point.kind if point.kind in ("base", "plain") else "front" if front else "shaped"]


def _plot_point(axes: Any, point: Point, front: bool) -> None:
    style = _style(point, front)
    filled = front or point.kind in ("base", "plain")
    axes.errorbar(
        point.tokens.value,
        point.accuracy.value,
        xerr=_whiskers(point.tokens),
        yerr=_whiskers(point.accuracy),
        fmt=style["marker"],
        color=style["color"],
        markerfacecolor=style["color"] if filled else "white",
        markeredgewidth=1.6,
        markersize=8 if style["marker"] == "s" else 7.5,
        elinewidth=1.3,
        capsize=2.5,
        zorder=4 if filled else 3,
    )


def _whiskers(estimate: Any) -> list[list[float]]:
    low, high = estimate.value - estimate.low, estimate.high - estimate.value
    return [[0.0 if math.isnan(low) else max(low, 0.0)], [0.0 if math.isnan(high) else max(high, 0.0)]]


def _plot_front(axes: Any, front: list[Point]) -> None:
    """From the cheapest point rightwards: what accuracy can be had for at most so many tokens."""
    axes.margins(0.08)
    axes.autoscale_view()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    if front:
        front = sorted(front, key=lambda p: p.tokens.value)
        x = [p.tokens.value for p in front] + [right]
        y = [p.accuracy.value for p in front] + [front[-1].accuracy.value]
        color = STYLES["front"]["color"]
        axes.step(x, y, where="post", color=color, linewidth=1.6, alpha=0.55, zorder=2)
        axes.fill_between(x, y, bottom, step="post", color=color, alpha=0.05, linewidth=0, zorder=1)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _dress(axes: Any, shown: list[tuple[Point, bool]], title: str, subtitle: str) -> None:
    from matplotlib.lines import Line2D

    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", pad=24)
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=9.5, color="#444444")
    axes.set_xlabel("mean tokens per response", fontsize=11)
    axes.set_ylabel("accuracy", fontsize=11)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    known = any(p.kind != "shaped" for p, _ in shown)  # of rollouts that others logged nobody knows what shaped them
    handles = [
        Line2D([], [], color=s["color"], marker=s["marker"], linestyle="", markeredgewidth=1.6,
               label=s["label"] if known else s["label"].removeprefix("shaped, "),
               markerfacecolor="white" if kind == "shaped" else s["color"], markersize=7)
        for kind, s in STYLES.items() if any(_style(p, front) is s for p, front in shown)
    ]  # fmt: skip
    handles.append(Line2D([], [], color=STYLES["front"]["color"], alpha=0.55, label="front"))
    at = [axes.transLimits.transform((p.tokens.value, p.accuracy.value)) for p, _ in shown]
    free = not any(x > 0.65 and y < 0.45 for x, y in at)  # a front leaves this corner to the dominated points
    axes.legend(
        handles=handles,
        loc="lower right" if free else "best",
        fontsize=9,
        frameon=True,
        framealpha=0.9,
        edgecolor="#cccccc",
    )


def _label(figure: Any, axes: Any, shown: list[tuple[Point, bool]]) -> None:
    """Write each name where it hides nothing: the cheapest of many places around its point, several times round."""
    from matplotlib.patheffects import withStroke

    if not shown:
        return
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    spots = axes.transData.transform([(p.tokens.value, p.accuracy.value) for p, _ in shown])
    texts = [
        axes.annotate(p.name, (p.tokens.value, p.accuracy.value), xytext=(0, 0), textcoords="offset pixels",
                      fontsize=9.5, color=_text_color(p, f), ha="center", va="center", zorder=6,
                      fontweight="bold" if p.kind in ("base", "plain") else "normal",
                      path_effects=[withStroke(linewidth=2.5, foreground="white", alpha=0.8)],
                      arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 5})
        for p, f in shown
    ]  # fmt: skip
    boxes = place_labels(
        spots,
        [text.get_window_extent(renderer).size for text in texts],
        [*_obstacles(axes, shown, spots), _corners(axes.get_legend().get_window_extent(renderer))],
        _corners(axes.get_window_extent(renderer)),
    )
    for text, spot, (x0, y0, x1, y1) in zip(texts, spots, boxes, strict=True):
        text.set_position(((x0 + x1) / 2 - spot[0], (y0 + y1) / 2 - spot[1]))
        gap = max(x0 - spot[0], spot[0] - x1, y0 - spot[1], spot[1] - y1)
        if gap < 9 * PIXEL and text.arrow_patch is not None:  # beside its point: no line needed
            text.arrow_patch.set_visible(False)


def _text_color(point: Point, front: bool) -> str:
    return "#333333" if not front and point.kind == "shaped" else str(_style(point, front)["color"])


def _corners(extent: Any) -> Box:
    return extent.x0, extent.y0, extent.x1, extent.y1


def _obstacles(axes: Any, shown: list[tuple[Point, bool]], spots: Any) -> list[Box]:
    """Markers, whiskers and the front line as boxes in pixels."""
    half = 6 * PIXEL
    boxes = [(x - half, y - half, x + half, y + half) for x, y in spots]
    lines: list[list[tuple[float, float]]] = []
    for p, _ in shown:
        a, t = p.accuracy, p.tokens
        lines += [[(t.value, v) for v in a.interval], [(v, a.value) for v in t.interval]]
    front = sorted((p.tokens.value, p.accuracy.value) for p, on in shown if on)
    for (x0, y0), (x1, y1) in itertools.pairwise([*front, (axes.get_xlim()[1], front[-1][1])] if front else []):
        lines += [[(x0, y0), (x1, y0)], [(x1, y0), (x1, y1)]]
    for ends in lines:
        if not np.isnan(ends).any():
            (x0, y0), (x1, y1) = axes.transData.transform(ends)
            boxes.append((min(x0, x1) - PIXEL, min(y0, y1) - PIXEL, max(x0, x1) + PIXEL, max(y0, y1) + PIXEL))
    return boxes


def place_labels(spots: Any, sizes: Any, obstacles: Any, frame: Box, tries: int = 6, rounds: int = 4) -> list[Box]:
    """A box (x0, y0, x1, y1) in pixels for each label; they keep off each other, the obstacles and the frame's edge.

    Labels are placed one after the other, several times round; the best of `tries` orders is taken. Deterministic.
    """
    spots, solid = np.asarray(spots, dtype=np.float64), np.asarray(obstacles, dtype=np.float64).reshape(-1, 4)
    candidates = [_candidates(spot, size) for spot, size in zip(spots, sizes, strict=True)]
    fixed = [distance + _standing_cost(boxes, solid, frame) for boxes, distance in candidates]
    rng = np.random.default_rng(0)
    best, best_total = np.zeros((len(spots), 4)), math.inf
    for _ in range(tries):
        places, costs = np.full((len(spots), 4), np.nan), np.zeros(len(spots))
        for _ in range(rounds):
            before = places.copy()
            for i in rng.permutation(len(spots)):
                others = np.arange(len(spots)) != i
                cost = fixed[i] + _mutual_cost(candidates[i][0], spots[i], spots[others], places[others])
                chosen = int(cost.argmin())
                places[i], costs[i] = candidates[i][0][chosen], cost[chosen]
            if np.array_equal(before, places):
                break
        if costs.sum() < best_total:
            best, best_total = places, costs.sum()
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in best.tolist()]


def _candidates(spot: Any, size: Any) -> tuple[Any, Any]:
    """((C, 4) boxes on rings around the point, (C,) their distance in README pixels)."""
    distance, angle = np.meshgrid(
        [6, 12, 20, 30, 42, 56, 72, 90, 110, 135], np.linspace(0, 2 * np.pi, 32, endpoint=False)
    )
    half = np.asarray(size) / 2
    x = spot[0] + np.cos(angle.ravel()) * (distance.ravel() * PIXEL + half[0])
    y = spot[1] + np.sin(angle.ravel()) * (distance.ravel() * PIXEL + half[1])
    return np.stack([x - half[0], y - half[1], x + half[0], y + half[1]], axis=1), distance.ravel()


def _standing_cost(boxes: Any, solid: Any, frame: Box) -> Any:
    """(C,) cost of leaving the frame and of hiding what is drawn."""
    outside = (boxes[:, :2] < frame[:2]).any(axis=1) | (boxes[:, 2:] > frame[2:]).any(axis=1)
    return 1000 * outside + 45 * _touch(boxes, solid, 0).sum(axis=1)


def _mutual_cost(boxes: Any, spot: Any, points: Any, labels: Any) -> Any:
    """(C,) cost against the other points (n, 2) and their labels (n, 4; NaN: not placed yet)."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    leader = spot + np.linspace(0, 1, 11)[:, None, None] * (middle - spot)[None]  # (11, C, 2)
    through = ((leader[:, :, None] > labels[:, :2]) & (leader[:, :, None] < labels[:, 2:])).all(axis=3).any(axis=0)
    over = (np.abs(leader[:, :, None] - points) < 5 * PIXEL).all(axis=3).any(axis=0)
    crossed = _cross(spot, middle, points, (labels[:, :2] + labels[:, 2:]) / 2)
    return (300 * _touch(boxes, labels, 2 * PIXEL) + 80 * through + 60 * over + 120 * crossed).sum(axis=1)


def _cross(start: Any, ends: Any, starts: Any, stops: Any) -> Any:
    """(C, n) bool: whether the segment start-ends[c] crosses starts[n]-stops[n]."""

    def side(p: Any, q: Any, r: Any) -> Any:
        return (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])

    ends = ends[:, None]
    across = side(start, ends, starts) * side(start, ends, stops) < 0
    return across & (side(starts, stops, start) * side(starts, stops, ends) < 0)


def _touch(boxes: Any, others: Any, margin: float) -> Any:
    """(C, n) bool: whether boxes[c], widened by `margin`, touches others[n]."""
    low, high = boxes[:, None, :2] - margin, boxes[:, None, 2:] + margin
    return (low < others[:, 2:]).all(axis=2) & (high > others[:, :2]).all(axis=2)
