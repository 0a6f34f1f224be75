"""The parts of reports: tables, evaluations, predictions."""
