"""Pieces of the page's sentences."""

from typing import Any


def not_measured(facts: dict[str, Any]) -> str:
    """Returns why a piece has no facts; '' if it has."""
    failure = facts.get("failure", "")
    return f"not measured: {failure}" if failure else ""


def verdict(asked: str, is_met: bool) -> str:
    """Returns one sentence: a target, and whether it is met."""
    return f"Asked: {asked}; **{'met' if is_met else 'missed'}**."
