"""What `scripts/benchmark.py` compares: each peer is a script of its own, fair and readable, that prints one line.

All train the same network (embedding 10, hidden 200, batch norm with running statistics, 12,097 parameters) with the
same minibatch size and plain SGD, and print, as JSON: microseconds an update once running, seconds from the start of
the process to the first update, and the peak memory in MB.
"""
