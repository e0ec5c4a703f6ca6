"""What the alarms of `sar.alarms` are worth, measured on runs of which is known what went wrong."""
