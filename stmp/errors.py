"""The one tree of errors that users meet.

Every message says what is wrong, where (table, column, region, rows), and what to do about it.
Bad input and configuration (`DataError`, `ConfigError`) end the command line with exit code 2, anything else with 1.
"""

from __future__ import annotations


class StmpError(Exception):
    """Base of all errors that this platform raises on purpose."""


class DataError(StmpError):
    """The data cannot be used as it is: missing columns, duplicate rows, unknown regions, too short a history."""


class ConfigError(StmpError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class CheckpointError(StmpError):
    """A checkpoint or a saved model is missing, incomplete, corrupt, or of another configuration."""


class TrainingError(StmpError):
    """Training cannot go on: a non-finite loss, or workers that keep failing."""


class TrackingError(StmpError):
    """The tracking server cannot be reached, or refuses."""


class RegistryError(StmpError):
    """A model name, version or alias does not exist or cannot be loaded."""
