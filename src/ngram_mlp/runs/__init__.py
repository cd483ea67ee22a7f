"""What a run leaves on the disk. Machinery: change it only to store something new, and then in `checkpoint.py`."""
