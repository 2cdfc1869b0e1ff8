"""What tests of pipelines need: a clock that the test moves, a store that fails on demand, a crash at every write."""

from flujo.testing.clock import FakeClock
from flujo.testing.crash_points import CrashPoint, Scenario, crash_points, let_lease_expire
from flujo.testing.crash_safety import CrashReport, assert_crash_safe, check_crash_safety
from flujo.testing.faults import Crashed, Fault, FaultyBackend, When

__all__ = [
    "CrashPoint",
    "CrashReport",
    "Crashed",
    "FakeClock",
    "Fault",
    "FaultyBackend",
    "Scenario",
    "When",
    "assert_crash_safe",
    "check_crash_safety",
    "crash_points",
    "let_lease_expire",
]
