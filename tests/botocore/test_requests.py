# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulator's table of accepted parameters is the API's."""

import pathlib

import request_table

COMMITTED = pathlib.Path(__file__).resolve().parents[2] / "crates" / "emulator" / "src" / "api" / "requests.txt"


def test_the_table_is_the_service_models():
    assert COMMITTED.read_text().splitlines() == list(request_table.table())
