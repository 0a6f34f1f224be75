"""What the tests of records share."""

from tests.report.conftest import dashboard, hostile_run, make_run  # noqa: F401  fixtures
