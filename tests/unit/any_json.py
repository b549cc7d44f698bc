"""Any JSON, with the names and words that forges and CloudEvents use among it."""

from __future__ import annotations

import re

from hypothesis import strategies as st

TEXTS = st.one_of(
    st.sampled_from(
        [
            "refs/heads/main",
            "refs/tags/v1",
            "main",
            "0" * 40,
            "a" * 40,
            "https://u:p@h/x",
            "http://[",
            "push",
            "merge",
            "closed",
            "ref-updated",
            "batch-ref-updated",
            "change-merged",
            "tag_push",
            "merge_request",
            "2026-01-31T12:00:00Z",
            "0001-01-01T00:00:00+23:59",
            "",
        ]
    ),
    st.text(max_size=20),
)


KEYS = st.one_of(
    st.sampled_from(
        re.findall(
            r"\w+",
            "ref after before repository project push changes new old target hash name type links html href html_url self"
            " full_name path_with_namespace web_url pusher sender login object_kind object_attributes action pull_request"
            " merged base sha head_commit timestamp refUpdate refUpdates refName newRev oldRev change branch submitter"
            " eventCreatedOn pullRequest toRef id slug key actor source subject data merge_commit organization url",
        )
    ),
    st.text(max_size=5),
)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=8),
    max_leaves=30,
)
