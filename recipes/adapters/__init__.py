"""Clients of the reward server for trainers other than OpenRLHF."""
