"""What this host is and what runs on it. Imported by the harness and by `bench.doctor`."""
