"""Whole small studies under faults: after each, the same plain command must end with what an undisturbed study has.

``python -m tests.workflow.torture --number 200`` (or ``make torture N=200``). An episode is drawn from (seed, number,
fault) and prints the command that plays it again; only the moment at which a fault meets a running job is as exact as
the machine is quiet.
"""
