"""The demo: a real language model fetched, converted, pruned and compared. `make demo`, or `python -m gossamer.demo`."""
