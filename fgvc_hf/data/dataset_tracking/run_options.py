"""Options of a run, checked before there is any work."""

import math
from dataclasses import dataclass

from .clip_points import points_name


ENGINES = ("local", "ray")
TIME_LIMIT = 3600.0  # seconds for a clip


def check_number(option: str, value: float | None, least: float | None = 1, whole: bool = True) -> None:
    """
    Check a number that an option has, or `None`, which it has not.

    Args:
        option (`str`): What the message calls it.
        value (`float`, *optional*): The number.
        least (`float`, *optional*): The smallest that is accepted; if `None`, any that is positive.
        whole (`bool`, defaults to `True`): Whether it must be whole.

    Raises:
        `ValueError`: it is another.
    """
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (whole and value != int(value)) or not (value > 0 if least is None else value >= least):
        form = "a positive number" if least is None else f"{'' if whole else 'a number of '}{least} or more"
        raise ValueError(f"{option} must be {form}, got {value}.")


@dataclass(frozen=True)
class Prompts:
    """What is followed in each clip, and where it is given.

    Args:
        kind (`str`): `"points"` or `"masks"`.
        place (`str`): `"column:NAME"`; of points also `"grid:N"` or `"grid:ROWSxCOLUMNS"`.

    Raises:
        `ValueError`: the place is none of these.
    """

    kind: str
    place: str

    def __post_init__(self) -> None:
        if self.column is not None:
            return
        if self.kind == "masks":
            raise ValueError(f"masks must be column:NAME, got {str(self.place)[:50]!r}.")
        place = points_name(self.place if isinstance(self.place, str) else repr(self.place))
        object.__setattr__(self, "place", place)  # equal grids have one name

    @property
    def column(self) -> str | None:
        """The column that they are in."""
        kind, _, name = self.place.partition(":") if isinstance(self.place, str) else ("", "", "")
        return name if kind == "column" and name else None


def prompts_of(points: str | None, masks: str | None) -> Prompts:
    """What is followed: points or masks.

    Raises:
        `ValueError`: none is given, or both are, or one is not among those accepted.
    """
    given = [Prompts(kind, place) for kind, place in (("points", points), ("masks", masks)) if place is not None]
    if len(given) != 1:
        raise ValueError(f"give points or masks, got {'both' if given else 'neither'}.")
    return given[0]


@dataclass(frozen=True)
class Actors:
    """
    Args:
        most (`int`, *optional*): Actors at most; as many as the cluster has room for if not given.
        threads (`int`): CPU cores of each.
        gpus (`float`, *optional*): GPUs of each, such as 0.5; one if the cluster has GPUs, else none, if not given.

    Raises:
        `ValueError`: a number is not among those accepted.
    """

    most: int | None = None
    threads: int = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        check_number("--actors", self.most)
        check_number("--cpus", self.threads)
        check_number("--gpus", self.gpus, least=0, whole=False)
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"--gpus must be a part of one, or a whole number, got {self.gpus}.")


def check_options(engine: str, actors: Actors | None, num_shards: int | None, time_limit: float) -> None:
    """Check the options of a run.

    Raises:
        `ValueError`: one is not among those accepted.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}.")
    if actors is not None and engine != "ray":
        raise ValueError(f"--actors, --cpus and --gpus are options of --engine ray, not of {engine}.")
    check_number("--num-shards", num_shards)
    check_number("--time-limit", time_limit, least=None, whole=False)


__all__ = ["TIME_LIMIT", "Actors", "Prompts", "check_number", "check_options", "prompts_of"]
