"""What a run leaves on the disk: checkpoints, its folder, files that are written whole or not at all.

Machinery: change it only to store something new in a checkpoint, and then in `checkpoint.py`.
"""
