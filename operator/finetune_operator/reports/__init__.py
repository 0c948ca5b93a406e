"""Reports from trainers: who may send one, which is the newest, and when it is written into status."""
