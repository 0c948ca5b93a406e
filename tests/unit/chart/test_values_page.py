"""The page of the chart's values is as values.yaml has them."""

from tests.support.chart_values import PAGE, render_page


def test_the_page_is_as_generated() -> None:
    """To write it anew: `python -c "from tests.support.chart_values import *; PAGE.write_text(render_page())"`."""
    assert PAGE.read_text() == render_page()
