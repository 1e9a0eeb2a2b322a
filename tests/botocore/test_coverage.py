# SPDX-License-Identifier: GPL-3.0-or-later
"""Every emulated action had its answer checked in this run."""

import subprocess

import pytest

import conftest


def test_every_emulated_action_was_checked(request):
    if request.session.testscollected < 40 or request.config.option.keyword:
        pytest.skip("only a part of the suite was run")
    emulated = set(subprocess.run([conftest.binary(), "actions"], capture_output=True, text=True, check=True).stdout.split())
    assert emulated
    assert emulated - conftest.CHECKED_ACTIONS == set()
