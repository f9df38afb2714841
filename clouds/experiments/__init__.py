"""Experiments with several trainings: run them, compare their scores, report them. Independent of any data set."""
