"""The sections of a recipe: every choice of a run, frozen, documented, with its default and its range.

Nothing below the stages ever sees these models: they take flat values.
"""

from trainer.sections.evaluate import EvaluateSection, ExportSection
from trainer.sections.fit import FitSection
from trainer.sections.models import BaseModelSection, FacesSection
from trainer.sections.prepare import PrepareSection
from trainer.sections.section import Section

__all__ = [
    "BaseModelSection", "EvaluateSection", "ExportSection", "FacesSection", "FitSection", "PrepareSection", "Section",
]  # fmt: skip
