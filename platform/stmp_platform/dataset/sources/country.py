"""A country's public holidays as a calendar table, from the `holidays` library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from stmp.errors import ConfigError


@dataclass(frozen=True)
class CountryCalendar:
    """Holidays of a country or one of its subdivisions.

    Attributes
    ----------
    events : one row a holiday and date: date (text, YYYY-MM-DD), holiday (its name, English where the library has it)
    weekend : days of the week that are the country's weekend, Monday = 0
    christmas : the name of the holiday on 25 December, empty where that is none
    """

    events: pd.DataFrame
    weekend: tuple[int, ...]
    christmas: str


def country_calendar(
    country: str, years: Sequence[int], categories: Sequence[str] = ("public",), keep: Sequence[str] | None = None
) -> CountryCalendar:
    """Look up holidays.

    Parameters
    ----------
    country : ISO code, with a subdivision where wanted: DE, DE-BE, US-CA
    years : years to list
    categories : the library's categories of holidays
    keep : names to keep; default all

    Raises
    ------
    ConfigError : the country, the subdivision or a name in `keep` is not known to the library.
    """
    import holidays

    code, _, subdivision = country.strip().upper().partition("-")
    supported = holidays.list_supported_countries()
    if code not in supported:
        raise ConfigError(
            f"country {country!r} is not known: give a two-letter code such as DE, US or IN, "
            "with a subdivision where wanted (DE-BE, US-CA)"
        )
    if subdivision and subdivision not in supported[code]:
        known = ", ".join(supported[code]) or "none"
        raise ConfigError(f"country {code} has no subdivision {subdivision!r}; known are: {known}")
    # The language is fixed, because the library's default follows the machine's locale. Days in lieu ("observed") are
    # left out: shops feel the feast, not the office's day off.
    probe = holidays.country_holidays(code, years=years[0])
    english = "en_US" if "en_US" in probe.supported_languages else None
    found = holidays.country_holidays(
        code,
        subdiv=subdivision or None,
        years=list(years),
        language=english or probe.default_language,
        observed=False,
        categories=tuple(categories),
    )
    rows = [
        (str(day), part.strip())
        for day, names in sorted(found.items())
        for part in names.split(";")  # a date with two holidays has both names
        if keep is None or part.strip() in keep
    ]
    missing = sorted(set(keep or ()) - {name for _, name in rows})
    if missing:
        raise ConfigError(
            f"holidays {holidays.__version__} names no {', '.join(missing)} in {code} {list(years)}; "
            "install a version in the range of pyproject.toml"
        )
    christmas = next((name for day, name in rows if day.endswith("-12-25")), "")
    weekend = tuple(sorted(int(day) for day in found.weekend))
    return CountryCalendar(pd.DataFrame(rows, columns=["date", "holiday"]), weekend, christmas)
