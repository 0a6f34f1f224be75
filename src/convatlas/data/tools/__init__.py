"""The functions of the ``convatlas data`` verbs: verify, describe, prepare and time a data set."""
