"""What can go wrong, said once: every error names the value, the rule and the remedy.

Each class has an exit code of the command line; its facts are attributes, so that a program can act on
them without reading the message.
"""

from __future__ import annotations

from typing import Any


class NdviScaleError(Exception):
    """Base of every error that is the input's or the surroundings' doing, never a bug of ours."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """An error comes whole out of another process: its facts are no arguments that pickle knows of."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[NdviScaleError], args: tuple[Any, ...], facts: dict[str, Any]) -> NdviScaleError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class ConfigError(NdviScaleError):
    """A parameter is wrong: unknown, out of range, or not to be combined with another."""

    exit_code = 2


class SearchError(NdviScaleError):
    """A catalog cannot be read or does not answer as STAC."""

    exit_code = 3


class EmptySearchError(SearchError):
    """The catalog was read, and nothing in it fits the region, the dates and the limits."""

    exit_code = 4


class ItemError(NdviScaleError):
    """An item lacks what NDVI needs, or contradicts itself."""

    exit_code = 5

    def __init__(self, message: str, *, item_id: str, asset: str | None = None) -> None:
        super().__init__(message)
        self.item_id = item_id
        self.asset = asset


class ClusterError(NdviScaleError):
    """A cluster does not come, is not fit for the run, or is gone."""

    exit_code = 11


class ReadError(NdviScaleError):
    """An asset cannot be read: absent, truncated, or not what its item says."""

    exit_code = 6

    def __init__(self, message: str, *, item_id: str, asset: str, permanent: bool = True) -> None:
        super().__init__(message)
        self.item_id = item_id
        self.asset = asset
        self.permanent = permanent
        """Whether another try would fail as well: absent, another format or grid, cut or corrupt. Not so for what
        may be over tomorrow: a time-out, a server that is busy or refuses, a name that is not found."""


class StoreError(NdviScaleError):
    """An output location is unknown, not writable, or holds something that is not ours."""

    exit_code = 7


class DamagedError(StoreError):
    """An output is not what its run wrote."""

    exit_code = 12


class PlanMismatchError(StoreError):
    """The output exists and was made with other parameters."""

    exit_code = 8

    def __init__(self, message: str, *, differences: tuple[str, ...]) -> None:
        super().__init__(message)
        self.differences = differences


class IncompleteRunError(NdviScaleError):
    """Some regions failed; what was written is whole, and running again takes up the rest."""

    exit_code = 9

    def __init__(self, message: str, *, failed: int, done: int) -> None:
        super().__init__(message)
        self.failed = failed
        self.done = done


class OffsetConflictError(NdviScaleError):
    """The pixels of an item contradict its BOA offset, in a strict run; what is written is whole."""

    exit_code = 10

    def __init__(self, message: str, *, item_id: str, land: int, dark: int) -> None:
        super().__init__(message)
        self.item_id = item_id
        self.land = land
        self.dark = dark
