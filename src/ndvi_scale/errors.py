"""What can go wrong, said once: every error names the value, the rule and the remedy.

Each class has an exit code of the command line; its facts are attributes, so that a program can act on
them without reading the message.
"""

from __future__ import annotations


class NdviScaleError(Exception):
    """Base of every error that is the input's or the surroundings' doing, never a bug of ours."""

    exit_code = 1


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


class ReadError(NdviScaleError):
    """An asset cannot be read: absent, truncated, or not what its item says."""

    exit_code = 6

    def __init__(self, message: str, *, item_id: str, asset: str, permanent: bool = True) -> None:
        super().__init__(message)
        self.item_id = item_id
        self.asset = asset
        self.permanent = permanent


class StoreError(NdviScaleError):
    """An output location is unknown, not writable, or holds something that is not ours."""

    exit_code = 7


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
