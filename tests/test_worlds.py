"""Small worlds that hypothesis draws: right, or refused in one sentence (tests/helpers/worlds.py tries hundreds)."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import worlds


@st.composite
def drawn(draw):
    return worlds.draw_world(lambda options: draw(st.sampled_from(list(options))))


@settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(drawn())
def test_a_world_is_right_or_refused(tmp_path_factory, world):
    outcome = worlds.try_world(world, tmp_path_factory.mktemp("world"))
    assert outcome.kind in ("right", "refused"), f"{outcome.kind} at {outcome.stage}: {outcome.message}"
