"""The gate between the registry and the shop floor: which version is champion, and what it takes to become it."""

from stmp_platform.gate.champions import Champions, Move
from stmp_platform.gate.promotion import GATE_TAG, Decision, promote, rollback
from stmp_platform.gate.rules import Rules

__all__ = ["GATE_TAG", "Champions", "Decision", "Move", "Rules", "promote", "rollback"]
