"""Where the report's bars lie."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluate.charts import BINS, distributions

values = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50)


@given(st.dictionaries(st.sampled_from("abcd"), values, min_size=1))
def test_every_bar_lies_inside_its_picture_and_row(named: dict[str, list[float]]) -> None:
    drawn = distributions({name: np.array(row, np.float32) for name, row in named.items()}, width=640, row_px=56)
    assert [row["name"] for row in drawn["rows"]] == list(named)
    for index, row in enumerate(drawn["rows"]):
        assert 0 <= row["x"] <= 640
        assert all(0 <= bar["x"] <= 640 - 640 / BINS + 0.1 for bar in row["bars"])
        assert all(index * 56 <= bar["y"] <= bar["floor"] == (index + 1) * 56 for bar in row["bars"])
        assert min(bar["y"] for bar in row["bars"]) == (index + 1) * 56 - 34  # the highest fills the row


def test_rows_without_values_are_left_out() -> None:
    drawn = distributions({"none": np.zeros(0, np.float32), "some": np.ones(3, np.float32)})
    assert [row["name"] for row in drawn["rows"]] == ["some"]
