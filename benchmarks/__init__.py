"""Contains the peers of `scripts/benchmark.py`: each is a fair and readable script that prints one line of JSON.

Peers train the same network (embedding 10, hidden 200, batch norm with running statistics, 12,097 parameters) with the
same minibatch size and plain SGD. They print the microseconds per update once running, the seconds from the start of
the process to the first update, and the peak memory in MB.
"""
