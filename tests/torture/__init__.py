"""Real faults on real processes: `python3 noxfile.py -s torture`."""
