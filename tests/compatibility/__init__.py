"""What earlier versions wrote, and the test that this version still reads it. `record.py` is a program that makes a recording."""
