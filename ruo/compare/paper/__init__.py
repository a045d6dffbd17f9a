"""The reference system of 2023, rewritten from its description with its faults: two scripts run as processes."""
