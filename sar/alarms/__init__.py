"""Alarms: signs in a run's rewards that something other than solving problems is learned."""
