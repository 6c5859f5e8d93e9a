"""Tracks made smooth by what is known of their errors, and how fast points move."""

from dataclasses import replace

import numpy as np

from ..tracking.prompts import positive_number
from ..tracking.results import PointTracks


LEAST_ERROR = 0.05  # pixels; what a track is taken to be off by at least
# Pixels per frame: tracks are straight lines below, and as they were above; beyond, float64 does not suffice
ACCELERATIONS = 1e-5, 1e5


def smooth(tracks: PointTracks, acceleration: float = 0.5) -> PointTracks:
    """
    Smooth tracks by how certain each position is. Nothing in this package does so unless it is asked to: fast motion is smoothed away with noise.

    A Kalman filter forward and a Rauch–Tung–Striebel smoother backward, of a point whose velocity changes from frame to frame at random. Positions
    count by their `uncertainty`; those of hidden frames do not count, so that a hidden point moves on between the places where it was seen.
    Prompts stay exactly where they are.

    Args:
        tracks ([`PointTracks`]): As [`Tracker.track`] returns them.
        acceleration (`float`, defaults to 0.5): By how much velocity changes from one frame to the next, in pixels per frame: a standard
            deviation. The smaller, the smoother.

    Returns:
        [`PointTracks`] with other `tracks`; visibility and the rest are the same. Frames without a position stay without one.

    Raises:
        `ValueError`: `acceleration` is no positive number.
    """
    acceleration = positive_number("acceleration", acceleration, "pixels per frame")
    there = ~np.isnan(tracks.tracks[..., 0])  # (N, T)
    prompts = _prompts(tracks)
    positions = tracks.tracks.astype(np.float64)
    for row, t, place in prompts:
        positions[row, t] = place
    seen = there & tracks.visible & ~np.isnan(tracks.uncertainty)
    variance = np.maximum(np.nan_to_num(tracks.uncertainty.astype(np.float64)), LEAST_ERROR) ** 2
    for row, t, _ in prompts:
        seen[row, t], variance[row, t] = True, 0.0
    found = _smoothed(positions, seen, variance, np.clip(acceleration, *ACCELERATIONS) ** 2)
    keep = there & seen.any(axis=1, keepdims=True)
    result = np.where(keep[..., None], found, tracks.tracks)
    for row, t, place in prompts:
        result[row, t] = place
    return replace(tracks, tracks=result.astype(np.float32))


def _prompts(tracks: PointTracks) -> list[tuple[int, int, np.ndarray]]:
    """Row, frame and position (x, y) of all prompts: of all labels, where the tracks have several of a point."""
    rows, prompts = tracks.prompts
    inside = (prompts[:, 0] < tracks.tracks.shape[1]) & ~np.isnan(prompts).any(axis=1)
    places = zip(rows[inside].tolist(), prompts[inside], strict=True)
    return [(row, int(t), np.array(place)) for row, (t, *place) in places]


def _smoothed(positions: np.ndarray, seen: np.ndarray, variance: np.ndarray, power: float) -> np.ndarray:
    """
    Positions `(N, T, 2)` of a motion whose velocity does a random walk.

    Args:
        positions (`numpy.ndarray` of shape `(N, T, 2)`): What was measured.
        seen (`numpy.ndarray` of shape `(N, T)`, bool): Where it counts.
        variance (`numpy.ndarray` of shape `(N, T)`): Of the measurements, in pixels squared.
        power (`float`): Variance of the change of velocity per frame.
    """
    number, length = seen.shape
    if not length:
        return np.empty((number, 0, 2))
    step = np.array([[1.0, 1.0], [0.0, 1.0]])  # position and velocity, to the next frame
    noise = power * np.array([[1 / 3, 1 / 2], [1 / 2, 1.0]])
    state = np.zeros((number, 2, 2))  # position and velocity, by axis
    start = seen.argmax(axis=1)
    state[:, 0] = np.nan_to_num(positions[np.arange(number), start])
    cover = np.tile(np.diag([1e6, 1e4]), (number, 1, 1))  # nothing is known yet
    filtered, covers, expected, spreads = [], [], [], []
    for t in range(length):
        if t:
            state, cover = step @ state, step @ cover @ step.T + noise
        expected.append(state), spreads.append(cover)
        gain = cover[:, :, 0] / (cover[:, 0, 0] + variance[:, t])[:, None] * seen[:, t, None]  # (N, 2)
        off = np.where(seen[:, t, None], np.nan_to_num(positions[:, t]) - state[:, 0], 0.0)  # (N, axes)
        state = state + gain[:, :, None] * off[:, None]
        cover = cover - gain[:, :, None] * cover[:, None, 0]
        filtered.append(state), covers.append(cover)
    result = np.empty((number, length, 2))
    result[:, -1] = filtered[-1][:, 0]
    for t in range(length - 2, -1, -1):
        back = covers[t] @ step.T @ np.linalg.inv(spreads[t + 1])
        state = filtered[t] + back @ (state - expected[t + 1])
        result[:, t] = state[:, 0]
    return result


def velocity(tracks: PointTracks, fps: float | None = None) -> np.ndarray:
    """
    How fast points move: the difference between the frames after and before, and at the ends of a track between two frames.

    Args:
        tracks ([`PointTracks`]): Noise of half a pixel is noise of half a pixel per frame here; [`smooth`] them first.
        fps (`float`, *optional*): Frames per second, for pixels per second.

    Returns:
        `numpy.ndarray` of shape `(N, T, 2)`, float32: (x, y) in pixels per frame, or per second with `fps`. NaN where there is no position, or
        none on a frame beside it.

    Raises:
        `ValueError`: `fps` is no positive number.
    """
    fps = 1.0 if fps is None else positive_number("fps", fps, "frames per second")
    positions = tracks.tracks.astype(np.float64)
    steps = np.diff(positions, axis=1)  # (N, T-1, 2)
    gap = np.full((len(positions), min(1, positions.shape[1]), 2), np.nan)
    after, before = np.concatenate([steps, gap], axis=1), np.concatenate([gap, steps], axis=1)
    speed = np.where(np.isnan(after), before, np.where(np.isnan(before), after, (after + before) / 2))
    return (speed * fps).astype(np.float32)


__all__ = ["smooth", "velocity"]
