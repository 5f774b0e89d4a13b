"""Which commit and which branch the two sides of a gate have: as the user says, as git says of a
revision, or as the variables of a pipeline say."""

import re
import subprocess
from collections.abc import Mapping

from bench.campaigns.campaign_options import Source, Variant

# The variables of GitHub, GitLab and Jenkins, the most telling first (their documentation, 2026-11:
# "Variables reference", "Predefined CI/CD variables", "Using environment variables").
COMMITS = {
    "base": ("CI_MERGE_REQUEST_TARGET_BRANCH_SHA", "CI_MERGE_REQUEST_DIFF_BASE_SHA"),
    "head": ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT"),
}
BRANCHES = {
    "base": ("GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "CHANGE_TARGET"),
    "head": (
        "GITHUB_HEAD_REF",
        "GITHUB_REF_NAME",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME",
        "CI_COMMIT_REF_NAME",
        "CHANGE_BRANCH",
        "BRANCH_NAME",
        "GIT_BRANCH",
    ),
}
COMMIT = re.compile("[0-9a-f]{7,64}")


def source_of(variant: Variant, said: str, variables: Mapping[str, str]) -> Source:
    """The source of a side, whose variant is named `base` or `head`; `said` is a commit, a branch,
    or both with a blank between them."""
    if said:
        commit, _, branch = said.partition(" ")
        return Source(commit, branch) if COMMIT.fullmatch(commit) else Source("", said)
    found = (
        next((value for name in names[variant.name] if (value := variables.get(name))), "")
        for names in (COMMITS, BRANCHES)
    )
    commit, branch = found
    if not variant.commit:
        return Source(commit, branch)
    branches = "--refs=refs/heads/*", "--refs=refs/remotes/*"
    words = ["git", "name-rev", "--name-only", "--no-undefined", *branches, variant.commit]
    named = subprocess.run(words, capture_output=True, text=True).stdout.strip()
    return Source(variant.commit, named or branch)
