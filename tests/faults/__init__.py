"""The fault suite: what the bus promises, judged from outside while everything around it fails.

    make faults                                 every fault, the long form
    make faults ARGS="-f kill9 --rounds 200"    one of them, as often as you like
    make faults ARGS=--list                     what there is

Nothing here imports the bus: it runs as its users run it, between a sender and a receiver that keep
ledgers (`support.ledger`), and is judged by these, by its public admin API and by what plain SQL
finds in its store. A short form of the quick faults is part of the tests (`test_faults.py`).
"""
