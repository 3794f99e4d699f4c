"""What people decide about a run's objects, and corrections made elsewhere."""
