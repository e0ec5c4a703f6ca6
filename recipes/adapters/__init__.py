"""Clients of the reward server for other trainers than OpenRLHF."""
