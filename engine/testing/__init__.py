"""What Tester.py does beyond generating and scoring sequences."""
