"""What the companion costs, beside what a reader would use instead.  Run: python -m benchmarks"""
