"""What the ``convatlas data`` verbs do: verify, describe, prepare and time a data set."""
