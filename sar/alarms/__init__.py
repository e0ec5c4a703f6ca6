"""Alarms: signs in a run's rewards that the policy learns something other than to solve problems."""
