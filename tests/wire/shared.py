"""What the tests of several protocols use."""

from hypothesis import strategies as st

from ruo.wire import Encoded

words = st.text(max_size=5) | st.sampled_from(["\ud800", "x" * 500])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def body_of(encoded: Encoded) -> bytes:
    """A message's body in one piece."""
    return b"".join(bytes(buffer) for buffer in encoded.buffers)
