"""The motion of the camera, from points that were followed on what does not move: one homography for each frame.

A homography is exact where the camera only turns and zooms, and where what it sees is flat or far away. Where the points do not determine one,
for instance because all lie on a line, it is one of fewer parameters: a similarity, or a translation if they all lie at one place.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..tracking.prompts import positive_number, whole_number
from ..tracking.results import PointTracks


HYPOTHESES = 500  # samples of 4 points; with half of the points on moving bodies, all miss once in 10^14 frames
ROUNDS = 10  # of reweighted least squares, which settle within 5
FEWEST = 4  # points, which a homography needs
# Least second eigenvalue of the equations of a homography: an error of a pixel of the points is one of 1 / sqrt(0.03), 6 pixels, in the motion that
# they determine least
DETERMINED = 0.03


@dataclass
class CameraMotion:
    """
    Where each frame of a video lies in the picture of one of them, the reference.

    Args:
        homographies (`numpy.ndarray` of shape `(T, 3, 3)`, float64):
            From pixels of each frame to pixels of the reference: (x, y, 1) becomes (X, Y, W), which is the place (X / W, Y / W).
        still (`numpy.ndarray` of shape `(N, T)`, bool): Whether a point moves with the camera's picture on a frame: it is visible, and within
            the threshold of where the homographies expect it.
        reference (`int`): The frame whose homography is the identity.
    """

    homographies: np.ndarray
    still: np.ndarray
    reference: int

    def to_world(self, tracks: PointTracks) -> PointTracks:
        """The tracks in pixels of the reference frame, as if the camera had not moved. They may lie outside of its picture; prompts move too.

        Raises:
            `ValueError`: the tracks are of another number of frames.
        """
        length = tracks.tracks.shape[1]
        if length != len(self.homographies):
            raise ValueError(
                f"tracks must be of the {len(self.homographies)} frames of the camera motion, got {length}."
            )
        moved = np.stack([project(h, tracks.tracks[:, t]) for t, h in enumerate(self.homographies)], axis=1)
        changed = {"tracks": moved.astype(np.float32), "queries": self._prompts(tracks.queries)}
        labels = getattr(tracks, "labels", None)
        if labels is not None:
            changed["labels"] = np.column_stack([labels[:, :1], self._prompts(labels[:, 1:])])
        return replace(tracks, **changed)

    def _prompts(self, prompts: np.ndarray) -> np.ndarray:
        """Prompts (t, x, y) of shape `(N, 3)` in pixels of the reference frame."""
        length = len(self.homographies)
        if late := [t for t in prompts[:, 0].tolist() if not 0 <= t < length]:
            raise ValueError(
                f"tracks have a prompt on frame {late[0]:.0f}, but the camera motion is of frames 0 to {length - 1}."
            )
        moved = prompts.copy()
        for row, (t, *point) in enumerate(prompts.tolist()):
            moved[row, 1:] = project(self.homographies[int(t)], np.array([point]))[0]
        return moved


def camera_motion(
    tracks: PointTracks, reference: int = 0, background: Iterable[int] | None = None, threshold: float = 2.0
) -> CameraMotion:
    """
    Estimate how the camera moved, from the motion that most points have in common.

    Frames are placed one after the other, away from the reference, on the places in its picture that points were found to have on the frames
    before. An error of a frame thus does not add to those of the next ones as long as the same points are seen. Points on moving bodies are left
    out by RANSAC, whose random numbers are always the same, and the rest is fitted by least squares with Tukey's weights. Where the rest lies on
    a line, or all but one of it, a similarity (shift, turn and zoom) is fitted instead, and where it lies within the threshold, a translation.

    Args:
        tracks ([`PointTracks`]): Of 4 points or more that are visible at a time, better of 30, spread over the picture;
            `tracker.track(video, grid=8)` for instance.
        reference (`int`, defaults to 0): The frame in whose pixels the world is.
        background (iterable of `int`, *optional*): Ids of points that are known not to move; all points are tried if not given, and the largest
            set that moves alike is the background.
        threshold (`float`, defaults to 2.0): Pixels from which a point has a motion of its own; the expected error of tracked points is about one.

    Returns:
        [`CameraMotion`].

    Raises:
        `ValueError`: a frame shares fewer than 4 background points with those before, or an argument is not among those accepted.
    """
    number, length = tracks.visible.shape
    reference = whole_number("reference", reference)
    if not 0 <= reference < length:
        raise ValueError(f"reference must be a frame from 0 to {length - 1}, got {reference}.")
    threshold = positive_number("threshold", threshold, "pixels")
    usable = tracks.visible & ~np.isnan(tracks.tracks).any(axis=-1)
    if background is not None:
        if not isinstance(background, Iterable):
            raise ValueError(f"background must be ids of tracks, got {background!r:.100}.")
        wanted = {whole_number("background", obj_id) for obj_id in background}
        if unknown := wanted - set(tracks.object_ids):
            raise ValueError(f"background has the id {min(unknown)}, which is not one of the tracks.")
        usable &= np.array([obj_id in wanted for obj_id in tracks.object_ids], dtype=bool)[:, None]
    points = tracks.tracks.astype(np.float64)
    error = np.clip(np.nan_to_num(tracks.uncertainty.astype(np.float64), nan=np.inf), 0.5, None)
    homographies = np.tile(np.eye(3), (length, 1, 1))
    still = usable.copy()
    for frames in (range(reference + 1, length), range(reference - 1, -1, -1)):
        world = _World(number)
        world.add(points[:, reference], usable[:, reference], error[:, reference])
        for t in frames:
            shared = usable[:, t] & world.known
            if shared.sum() < FEWEST:
                raise ValueError(
                    f"frame {t} has {shared.sum()} visible background points in common with frames nearer to frame {reference}, but a homography "
                    f"needs {FEWEST}; track more points, or prompt some on later frames."
                )
            fitted = fit_motion(points[shared, t], world.places[shared], 1 / error[shared, t] ** 2, threshold)
            homographies[t] = fitted
            there = project(fitted, points[:, t])
            off = np.linalg.norm(project(np.linalg.inv(fitted), world.places) - points[:, t], axis=-1)
            still[:, t] = usable[:, t] & (~world.known | (off < threshold))
            world.add(there, still[:, t], error[:, t])
    return CameraMotion(homographies, still, reference)


class _World:
    """Places of points in the picture of the reference: means of where the frames so far found them."""

    def __init__(self, number: int):
        self.places, self.weights = np.full((number, 2), np.nan), np.zeros(number)

    @property
    def known(self) -> np.ndarray:
        return self.weights > 0

    def add(self, places: np.ndarray, which: np.ndarray, error: np.ndarray) -> None:
        """Take the places `(N, 2)` of some points, `which` `(N,)`, with their expected errors `(N,)`, into the means."""
        weight = np.where(which, 1 / error**2, 0.0)
        total = self.weights + weight
        share = np.divide(weight, total, out=np.zeros_like(total), where=total > 0)[:, None]
        before, new = np.nan_to_num(self.places), np.nan_to_num(places)
        self.places = np.where(total[:, None] > 0, before + share * (new - before), np.nan)
        self.weights = total


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points `(N, 2)` moved by a homography `(3, 3)`."""
    moved = points @ homography[:, :2].T + homography[:, 2]
    return moved[:, :2] / moved[:, 2:]


class Family(NamedTuple):
    """Motions of a kind: how many points determine one, and the best ones `(K, 3, 3)` for points a to b, `(K, N, 2)`, with weights `(K, N)`."""

    fewest: int
    solve: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def fit_motion(source: np.ndarray, target: np.ndarray, weights: np.ndarray, threshold: float) -> np.ndarray:
    """
    The motion of most points: a homography, or one of fewer parameters if they do not determine it.

    Args:
        source, target (`numpy.ndarray` of shape `(N, 2)`): Where N points, 4 or more, are in both pictures.
        weights (`numpy.ndarray` of shape `(N,)`): How much each counts.
        threshold (`float`): Pixels of the target from which a point does not count.

    Returns:
        `numpy.ndarray` of shape `(3, 3)`, float64.
    """
    centres = [points.mean(axis=0) for points in (source, target)]
    scale = max(1.0, *(float(np.abs(p - c).max()) for p, c in zip((source, target), centres, strict=True)))
    a, b = ((p - c) / scale for p, c in zip((source, target), centres, strict=True))
    limit = threshold / scale
    best, used = _fit(a, b, weights, limit, HOMOGRAPHIES)
    if not _determined(a[used], b[used]):
        best, used = _fit(a, b, weights, limit, SIMILARITIES)
        away = np.sort(np.linalg.norm(a[used] - np.median(a[used], axis=0), axis=1))
        if len(away) < FEWEST or away[-2] < limit:  # at one place, but for one at most
            best, _ = _fit(a, b, weights, limit, TRANSLATIONS)
    to_a = np.array([[1 / scale, 0, -centres[0][0] / scale], [0, 1 / scale, -centres[0][1] / scale], [0, 0, 1]])
    from_b = np.array([[scale, 0, centres[1][0]], [0, scale, centres[1][1]], [0, 0, 1]])
    fitted = from_b @ best @ to_a
    return fitted / fitted[2, 2]


def _fit(
    a: np.ndarray, b: np.ndarray, weights: np.ndarray, limit: float, family: Family
) -> tuple[np.ndarray, np.ndarray]:
    """The motion `(3, 3)` of a family that takes most points a `(N, 2)` to b, within a distance, and which points `(N,)`, bool, it goes by."""
    best = _consensus(a, b, weights, limit, family)
    used = _distances(best[None], a, b)[0] < limit
    for _ in range(ROUNDS):
        off = _distances(best[None], a, b)[0]
        near = off[off < limit]
        spread = np.median(near) / 1.18 if len(near) else limit  # of an error along one axis, if it is Gaussian
        # Tukey's constant: 95 % as good as least squares on Gaussian errors
        cut = np.clip(4.69 * spread, limit / 10, limit)
        tukey = np.clip(1 - (off / cut) ** 2, 0, None) ** 2
        depth = a @ best[2, :2] + best[2, 2]  # equations are of distances times this
        counts = weights * tukey / np.maximum(depth**2, 1e-12)
        if (counts > 0).sum() < family.fewest:
            break
        best, used = family.solve(a[None], b[None], counts[None])[0], counts > 0
    return best, used


def _determined(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether points a to b, `(N, 2)`, determine a homography: their equations leave no second one."""
    if len(a) < FEWEST:
        return False
    rows = _equations(a[None], b[None])[0]
    return bool(np.linalg.eigvalsh(rows.T @ rows)[1] > DETERMINED)


def _consensus(a: np.ndarray, b: np.ndarray, weights: np.ndarray, limit: float, family: Family) -> np.ndarray:
    """The motion of the fewest points that agrees with most others, by RANSAC with a smooth count; the same each time."""
    random = np.random.default_rng(0)
    samples = np.argsort(random.random((HYPOTHESES, len(a))), axis=1)[:, : family.fewest]
    found = family.solve(a[samples], b[samples], np.ones(samples.shape))
    off = _distances(found, a, b)  # (hypotheses, N)
    agreement = (np.sqrt(weights) * np.clip(1 - (off / limit) ** 2, 0, None)).sum(axis=1)
    return found[agreement.argmax()]


def _distances(homographies: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far homographies `(K, 3, 3)` take points a `(N, 2)` from points b: `(K, N)`; infinite for those that they take behind the camera."""
    moved = a @ homographies[:, :, :2].transpose(0, 2, 1) + homographies[:, None, :, 2]  # (K, N, 3)
    depth = moved[..., 2] * np.sign(homographies[:, 2, 2])[:, None]
    ahead = depth > 1e-6
    places = moved[..., :2] / np.where(ahead, moved[..., 2], 1)[..., None]
    return np.where(ahead, np.linalg.norm(places - b, axis=-1), np.inf)


def _equations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equations `(K, 2 N, 9)` of homographies of points a to b, `(K, N, 2)`: those of x, then those of y (direct linear transform)."""
    ones, zeros = np.ones_like(a[..., :1]), np.zeros((*a.shape[:-1], 3))
    p = np.concatenate([a, ones], axis=-1)  # (K, N, 3)
    along_x = np.concatenate([p, zeros, -b[..., :1] * p], axis=-1)  # (K, N, 9)
    along_y = np.concatenate([zeros, p, -b[..., 1:] * p], axis=-1)
    return np.concatenate([along_x, along_y], axis=1)


def _homographies(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows = _equations(a, b) * np.sqrt(np.concatenate([weights, weights], axis=1))[..., None]
    _, vectors = np.linalg.eigh(rows.transpose(0, 2, 1) @ rows)  # (K, 9, 9), by ascending eigenvalue
    return vectors[..., 0].reshape(-1, 3, 3)


def _similarities(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Points as complex numbers: a motion is z to factor * z + shift."""
    share = weights / weights.sum(axis=1, keepdims=True)
    start, end = (p[..., 0] + 1j * p[..., 1] for p in (a, b))  # (K, N)
    middles = [(share * z).sum(axis=1, keepdims=True) for z in (start, end)]
    start, end = start - middles[0], end - middles[1]
    size = (share * np.abs(start) ** 2).sum(axis=1)
    factor = np.divide((share * start.conj() * end).sum(axis=1), size, out=np.ones(len(a), complex), where=size > 0)
    return _as_matrices(factor, middles[1][:, 0] - factor * middles[0][:, 0])


def _translations(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    shift = ((b - a) * weights[..., None]).sum(axis=1) / weights.sum(axis=1)[:, None]  # (K, 2)
    return _as_matrices(np.ones(len(a), complex), shift[:, 0] + 1j * shift[:, 1])


def _as_matrices(factor: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Motions `(K, 3, 3)` of complex factors and shifts `(K,)`."""
    rows = (factor.real, -factor.imag, shift.real), (factor.imag, factor.real, shift.imag)
    last = np.zeros_like(shift.real), np.zeros_like(shift.real), np.ones_like(shift.real)
    return np.stack([np.stack(row, axis=-1) for row in (*rows, last)], axis=1)


HOMOGRAPHIES, SIMILARITIES = Family(FEWEST, _homographies), Family(2, _similarities)
TRANSLATIONS = Family(1, _translations)


__all__ = ["CameraMotion", "camera_motion"]
