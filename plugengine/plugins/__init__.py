"""Drivers: found without being imported, chosen, held to the contract and to deadlines."""
