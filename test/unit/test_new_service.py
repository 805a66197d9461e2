"""A service is added by its room, its folder, a line in ROOMS and one in the order; nothing else.

In a copy of the formula with the exporter of test/exporter its own tests pass, and those that the
formula has for every service.
"""

import re
import subprocess
import sys

import with_exporter

# Tests of test_sls.py and test_sls_order.py that hold for each service, and know none by name.
GENERAL = (
    *("no_sls_was_forgotten", "every_service_is_in_the_order"),
    *("what_runs_is_what_status_looks_at", "packages_and_units", "clean_takes_back"),
    *("states_are_sound", "files_are_tidy", "units_have_in_force", "alone_does_its_part"),
)
SITES = ("forgotten", "order", "example")


def test_a_service_is_added_by_its_own_files(tmp_path):
    with_exporter.make(tmp_path)
    chosen = f"test_exporter or ({' or '.join(GENERAL)}) and ({' or '.join(SITES)})"
    files = ["test/unit/test_exporter.py", "test/unit/test_sls.py", "test/unit/test_sls_order.py"]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", chosen, *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.findall(r"^test/unit/test_(\w+)\.py::test_(.+) PASSED", done.stdout, re.MULTILINE)
    assert len([name for file, name in passed if file == "exporter"]) >= 12
    general = [name for file, name in passed if file in ("sls", "sls_order")]
    assert all(any(part in name for name in general) for part in GENERAL)
    assert "clean_takes_back_all_that_was_written[example-gateway.exporter]" in general
