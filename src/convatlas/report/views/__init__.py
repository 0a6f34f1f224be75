"""The sections of reports: tables, evaluations, predictions."""
