import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks/ is not installed

from benchmarks.main import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
