"""Tests that need the real load generator say so when it is absent."""

from __future__ import annotations

import shutil

import pytest

needs_hey = pytest.mark.skipif(shutil.which("hey") is None, reason="hey is not installed: apt install hey")
