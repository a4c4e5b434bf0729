"""The unit of independence: how it is known which cases belong together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grouping:
    """The unit of independence: how it is known which cases belong to one subject.

    Attributes:
        by: ``pattern`` (an expression for ids), ``file``, ``case`` (each case by itself), ``noticed`` (cases that look
            as if they had one origin are one subject), all in the configuration;
            ``layout``; or ``nobody``, which leaves each case by itself.
        how: the expression, the file's name, or what in the data set names the subjects.
    """

    by: str
    how: str = ""

    def sentence(self, subjects: int) -> str:
        """One sentence for a reader, with the number of subjects."""
        if self.by == "nobody":
            return f"each case by itself: nobody declared which belong together ({subjects} cases)"
        if self.by == "noticed":
            return f"subject, by what ingest noticed (`subject: same-origin`): {subjects} subjects"
        if self.by == "case":
            return f"each case by itself, declared by `subject: case`: {subjects} cases"
        how = f"the pattern '{self.how}'" if self.by == "pattern" else self.how
        return f"subject, declared by {how}: {subjects} subjects"


NOBODY = Grouping("nobody")
