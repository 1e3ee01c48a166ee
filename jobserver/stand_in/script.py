"""The messages of one job: the profile's samples, with the job's own names instead of those in the samples."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count

from shared.job_server.profile import Profile, Sample
from shared.job_server.samples import SAMPLE_VALUES, found_in

__all__ = ["Script", "replaced"]

_OFFERED = Sample(kind="reply", status=500, expect="error", body="{}")


class Script:
    """The messages of a job server with this profile."""

    def __init__(self, profile: Profile, base_url: str) -> None:
        """`base_url` is the address of the stand-in."""
        self._profile = profile
        self._base_url = base_url.rstrip("/")
        self._numbers = count(1)
        self.outputs = {**self._outputs_of("status", "succeeded"), **self._outputs_of("reply", "running")}

    def _outputs_of(self, kind: str, expect: str) -> Mapping[str, str]:
        """Return the outputs of the first such sample that has any."""
        found = (sample.outputs or found_in(self._profile, sample)[1].outputs for sample in self._of(kind, expect))
        return next(filter(None, found), {})

    def names_for(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return what to replace in the samples, and by what, for a job whose placeholders have these `values`."""
        names = {SAMPLE_VALUES[name]: value for name, value in values.items() if name in SAMPLE_VALUES}
        if self._profile.server.url:
            names[self._profile.server.url] = self._base_url
        number = next(self._numbers)
        plain = {text for text in self.outputs.values() if not text.startswith("http") and text not in names}
        names |= {text: f"{text}{1_000 + number}" if text.isdigit() else f"{text}-{number}" for text in plain}
        for text in self.outputs.values():
            if text.startswith("http") and not any(known in text for known in plain):
                names[text] = f"{replaced(text, names)}-{number}"
        return names

    def reply(self, expect: str, names: Mapping[str, str]) -> Sample:
        """Return a reply of this kind; a minimal one if the profile has no sample of it."""
        sample = next(self._of("reply", expect), None)
        if sample is None:
            status = {"running": 200, "busy": 429, "refused": 400}.get(expect, 500)
            sample = replace(_OFFERED, status=status)
        return _for_job(sample, names)

    def message(self, kind: str, expects: Iterable[str], names: Mapping[str, str]) -> Sample | None:
        """Return the first sample of this kind that expects one of `expects`, in their order."""
        samples = (sample for expect in expects for sample in self._of(kind, expect))
        sample = next(samples, None)
        return None if sample is None else _for_job(sample, names)

    def messages(self, kind: str, expect: str, names: Mapping[str, str]) -> list[Sample]:
        """Return all samples of this kind with this expectation."""
        return [_for_job(sample, names) for sample in self._of(kind, expect)]

    def _of(self, kind: str, expect: str) -> Iterator[Sample]:
        return (sample for sample in self._profile.sample if (sample.kind, sample.expect) == (kind, expect))


def _for_job(sample: Sample, names: Mapping[str, str]) -> Sample:
    headers = {name: replaced(value, names) for name, value in sample.headers.items()}
    return replace(sample, body=replaced(sample.body, names), headers=headers, query=replaced(sample.query, names))


def replaced(text: str, names: Mapping[str, str]) -> str:
    """Return `text` with each of the names replaced where it is a whole word; the longest one counts."""
    if not names:
        return text
    longest_first = sorted(names, key=len, reverse=True)
    words = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9])")
    return words.sub(lambda found: names[found[0]], text)
