"""What the commands of pods.py do, and what they print."""
