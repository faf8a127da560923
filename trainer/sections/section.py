"""What the sections of a recipe share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Choice = Literal["reject", "warn", "keep"]


class Section(BaseModel):
    """Shared manners: frozen, closed, and documented by each field's own docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
