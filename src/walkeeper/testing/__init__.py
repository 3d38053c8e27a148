"""Fakes that ship with the package: a disk with crashes, a network with cuts, a WAL generator."""
